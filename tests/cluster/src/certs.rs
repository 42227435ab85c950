//! Keys and certificates of a control plane, and kubeconfigs that carry them.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::json;
use time::{Duration, OffsetDateTime};

use crate::error::{At, ClusterError, ClusterResult};

/// Clusters live for hours; a week keeps a forgotten one usable.
const LIFETIME: Duration = Duration::days(7);

/// The certificate authority of one cluster and the folder that its files go to.
#[derive(Debug)]
pub(crate) struct ClusterAuthority {
    dir: PathBuf,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// The subject of a client certificate: the common name is the user, organizations are groups.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientSubject<'a> {
    pub file: &'a str,
    pub user: &'a str,
    pub group: Option<&'a str>,
}

impl ClusterAuthority {
    /// Creates the authority, its files `ca.crt` and `ca.key`, and the key for service account tokens.
    pub(crate) fn create(dir: PathBuf) -> ClusterResult<Self> {
        fs::create_dir_all(&dir).at("create", &dir)?;
        let key = key_pair("ca")?;
        let mut params = params("durward-cluster-ca", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(|source| error("ca", source))?.pem();
        write(&dir.join("ca.crt"), &certificate)?;
        write(&dir.join("ca.key"), &key.serialize_pem())?;
        let service_accounts = key_pair("service-accounts")?;
        write(&dir.join("sa.key"), &service_accounts.serialize_pem())?;
        write(&dir.join("sa.pub"), &service_accounts.public_key_pem())?;
        Ok(Self { dir, certificate, issuer: Issuer::new(params, key) })
    }

    /// Writes `<file>.crt` and `<file>.key` of a server with these names.
    pub(crate) fn server(&self, file: &str, names: &[&str], addresses: &[IpAddr]) -> ClusterResult<()> {
        let mut params = params(file, None);
        for name in names {
            let name = (*name).try_into().map_err(|source| error(file, source))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(file, &params).map(drop)
    }

    /// Writes `<file>.crt` and `<file>.key` of a client and returns both in PEM.
    pub(crate) fn client(&self, client: ClientSubject<'_>) -> ClusterResult<(String, String)> {
        let mut params = params(client.user, client.group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(client.file, &params)
    }

    /// Writes a kubeconfig for `client` to `path`, with everything inline, so that it can be copied.
    pub(crate) fn kubeconfig(
        &self,
        path: &Path,
        context: &str,
        server: &str,
        client: ClientSubject<'_>,
    ) -> ClusterResult<()> {
        let (certificate, key) = self.client(client)?;
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": context, "cluster": {
                "server": server,
                "certificate-authority-data": crate::base64(self.certificate.as_bytes()),
            }}],
            "users": [{"name": context, "user": {
                "client-certificate-data": crate::base64(certificate.as_bytes()),
                "client-key-data": crate::base64(key.as_bytes()),
            }}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
            "current-context": context,
        });
        write(path, &config.to_string())
    }

    fn issue(&self, file: &str, params: &CertificateParams) -> ClusterResult<(String, String)> {
        let key = key_pair(file)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(|source| error(file, source))?.pem();
        write(&self.dir.join(format!("{file}.crt")), &certificate)?;
        write(&self.dir.join(format!("{file}.key")), &key.serialize_pem())?;
        Ok((certificate, key.serialize_pem()))
    }
}

fn params(common_name: &str, organization: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::minutes(5);
    params.not_after = now + LIFETIME;
    params
}

fn key_pair(name: &str) -> ClusterResult<KeyPair> {
    KeyPair::generate().map_err(|source| error(name, source))
}

fn error(name: &str, source: rcgen::Error) -> ClusterError {
    ClusterError::Certificate { name: name.to_owned(), source }
}

/// Writes a file that only its owner may read.
fn write(path: &Path, text: &str) -> ClusterResult<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        fs::File::options().create(true).write(true).truncate(true).mode(0o600).open(path).at("create", path)?;
    file.write_all(text.as_bytes()).at("write", path)
}
