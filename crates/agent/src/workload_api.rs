//! The SPIFFE Workload API.

use chrono::Utc;
use durward_authn::jwt::Token;
use durward_authn::keys::KeySet;
use durward_controller_client::controller::Refusal;
use durward_controller_client::source::{Source, State, trust_domain};
use durward_core::digest::Digest;
use futures::Stream;
use futures::StreamExt;
use futures::stream::BoxStream;
use prost_types::{ListValue, Struct, Value as Field, value::Kind};
use serde_json::Value;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

#[allow(clippy::all, reason = "made by the protobuf compiler")]
mod proto {
    tonic::include_proto!("_");
}

use proto::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use proto::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};

/// Every call has to carry it, so that nothing that merely can write to a socket is answered (SPIFFE Workload Endpoint,
/// section 6).
const HEADER: &str = "workload.spiffe.io";

/// Answers the pod's containers.
pub struct WorkloadApi {
    source: Source,
    hint: String,
}

impl WorkloadApi {
    pub fn server(source: Source, hint: String) -> SpiffeWorkloadApiServer<Self> {
        SpiffeWorkloadApiServer::new(Self { source, hint })
    }

    /// What `view` makes of each state that it can make something of: at once, and again on every change of it.
    fn follow<T: Send + 'static>(
        &self,
        view: impl Fn(&State) -> Option<T> + Send + 'static,
        digest: impl Fn(&T) -> Digest + Send + 'static,
    ) -> impl Stream<Item = Result<T, Status>> + Send + 'static {
        let states = WatchStream::new(self.source.state());
        let mut told = None;
        let told = move |state: State| {
            let answer = match (view(&state), &state.refused) {
                (Some(answer), _) => {
                    let news = digest(&answer);
                    (told.replace(news) != Some(news)).then_some(Ok(answer))
                }
                // who was given something before keeps it
                (None, Some(why)) => Some(Err(Status::permission_denied(why.clone()))),
                (None, None) => None,
            };
            std::future::ready(answer)
        };
        states.filter_map(told)
    }
}

fn check<T>(request: &Request<T>) -> Result<(), Status> {
    let mut values = request.metadata().get_all(HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument(format!("security header missing: set `{HEADER}: true`"))),
    }
}

fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::NoIdentity(why) => Status::permission_denied(why),
        Refusal::Later(why) => Status::unavailable(why),
    }
}

fn der(roots: &[rustls_pki_types::CertificateDer<'_>]) -> Vec<u8> {
    roots.iter().flat_map(|root| root.iter().copied()).collect()
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = BoxStream<'static, Result<X509svidResponse, Status>>;
    type FetchX509BundlesStream = BoxStream<'static, Result<X509BundlesResponse, Status>>;
    type FetchJWTBundlesStream = BoxStream<'static, Result<JwtBundlesResponse, Status>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        check(&request)?;
        let hint = self.hint.clone();
        let view = move |state: &State| {
            let (svid, own, bundle) = state.ready()?;
            let others = state.bundles.iter().filter(|(name, _)| *name != own);
            Some(X509svidResponse {
                svids: vec![X509svid {
                    spiffe_id: svid.id.clone(),
                    x509_svid: svid.chain.concat(),
                    x509_svid_key: svid.key.to_vec(),
                    bundle: der(&bundle.roots),
                    hint: hint.clone(),
                }],
                crl: Vec::new(),
                federated_bundles: others.map(|(name, bundle)| (name.clone(), der(&bundle.roots))).collect(),
            })
        };
        let digest = |answer: &X509svidResponse| {
            let svids = answer.svids.iter().flat_map(|svid| [svid.x509_svid.as_slice(), &svid.bundle]);
            Digest::of(svids.chain(sorted(&answer.federated_bundles)))
        };
        Ok(Response::new(self.follow(view, digest).boxed()))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        check(&request)?;
        let view = |state: &State| {
            let bundles = state.bundles.iter().map(|(name, bundle)| (name.clone(), der(&bundle.roots)));
            state.ready().map(|_| X509BundlesResponse { crl: Vec::new(), bundles: bundles.collect() })
        };
        let digest = |answer: &X509BundlesResponse| Digest::of(sorted(&answer.bundles));
        Ok(Response::new(self.follow(view, digest).boxed()))
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        check(&request)?;
        let JwtsvidRequest { audience, spiffe_id } = request.into_inner();
        if audience.is_empty() || audience.iter().any(String::is_empty) {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        let token = self.source.token(&audience).await.map_err(refused)?;
        if !spiffe_id.is_empty() && spiffe_id != token.spiffe_id {
            return Err(Status::permission_denied(format!("this pod is {}", token.spiffe_id)));
        }
        let svid = Jwtsvid { spiffe_id: token.spiffe_id.clone(), svid: token.token.clone(), hint: self.hint.clone() };
        Ok(Response::new(JwtsvidResponse { svids: vec![svid] }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        check(&request)?;
        let view = |state: &State| {
            let bundles = state.bundles.iter().map(|(name, bundle)| (name.clone(), bundle.jwks.clone().into_bytes()));
            state.ready().map(|_| JwtBundlesResponse { bundles: bundles.collect() })
        };
        let digest = |answer: &JwtBundlesResponse| Digest::of(sorted(&answer.bundles));
        Ok(Response::new(self.follow(view, digest).boxed()))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        check(&request)?;
        let ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        for (name, value) in [("audience", &audience), ("svid", &svid)] {
            if value.is_empty() {
                return Err(Status::invalid_argument(format!("{name} must be specified")));
            }
        }
        let state = self.source.state().borrow().clone();
        if state.ready().is_none() {
            return Err(state.refused.map_or_else(|| Status::unavailable("no bundle yet"), Status::permission_denied));
        }
        let wrong =
            |cause: &dyn std::fmt::Display| Status::invalid_argument(format!("the JWT-SVID does not count: {cause}"));
        let token = Token::parse(&svid).map_err(|cause| wrong(&cause))?;
        let id = token.claimed_subject().unwrap_or_default().to_owned();
        let bundle = state.bundles.get(trust_domain(&id)).filter(|_| id.starts_with("spiffe://"));
        let bundle = bundle.ok_or_else(|| wrong(&"its subject is of no trust domain that counts here"))?;
        let keys = KeySet::parse(bundle.jwks.as_bytes()).map_err(|error| wrong(&error))?;
        let claims = token.verify(&keys, Utc::now()).map_err(|cause| wrong(&cause))?;
        claims.demand_audience([audience.as_str()].into_iter()).map_err(|cause| wrong(&cause))?;
        let fields = claims.all().iter().map(|(name, value)| (name.clone(), field(value)));
        Ok(Response::new(ValidateJwtsvidResponse { spiffe_id: id, claims: Some(Struct { fields: fields.collect() }) }))
    }
}

/// The parts of a map in one order.
fn sorted(map: &std::collections::HashMap<String, Vec<u8>>) -> Vec<&[u8]> {
    let mut all: Vec<_> = map.iter().collect();
    all.sort_unstable();
    all.into_iter().flat_map(|(name, bytes)| [name.as_bytes(), bytes]).collect()
}

/// A claim as protobuf has it.
fn field(value: &Value) -> Field {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(all) => Kind::ListValue(ListValue { values: all.iter().map(field).collect() }),
        Value::Object(all) => {
            Kind::StructValue(Struct { fields: all.iter().map(|(name, value)| (name.clone(), field(value))).collect() })
        }
    };
    Field { kind: Some(kind) }
}
