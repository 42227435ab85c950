//! The sockets of `durward agent`. Tests in a cluster cover the content of its responses.

use durward_tests::{durward, eventually, free};
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use futures::stream::{self, StreamExt};
use hyper_util::rt::TokioIo;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// Opens a stream and checks that it stays silent: there is no identity yet.
async fn hold(channel: Channel) -> tonic::Streaming<impl std::fmt::Debug> {
    let names = DiscoveryRequest { resource_names: vec!["default".to_owned()], ..DiscoveryRequest::default() };
    let requests = stream::iter([names]).chain(stream::pending());
    let mut updates = SecretDiscoveryServiceClient::new(channel).stream_secrets(requests).await.unwrap().into_inner();
    assert!(timeout(Duration::from_millis(300), updates.message()).await.is_err(), "there is no identity yet");
    updates
}

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_do_not_delay_shutdown() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let tcp = free();
    let mut agent = durward()
        .args(["agent", "--controller", "https://127.0.0.1:1", "--health", &free().to_string()])
        .args(["--tcp", &tcp.to_string(), "--socket"])
        .arg(&socket)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let path = socket.clone();
    let by_socket = service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    eventually("the agent listens", || std::os::unix::net::UnixStream::connect(&socket).ok()).unwrap();
    let by_socket = Endpoint::from_static("http://agent").connect_with_connector(by_socket).await.unwrap();
    let by_tcp = Endpoint::from_shared(format!("http://{tcp}")).unwrap().connect().await.unwrap();
    // also several streams of one client
    let mut held = Vec::new();
    for channel in [&by_socket, &by_tcp, &by_socket, &by_tcp] {
        held.push(hold(channel.clone()).await);
    }
    let begun = Instant::now();
    assert!(Command::new("kill").args(["-INT", &agent.id().to_string()]).status().unwrap().success());
    assert_eq!(agent.wait().unwrap().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for mut updates in held {
        assert!(!matches!(updates.message().await, Ok(Some(_))));
    }
    assert!(!socket.exists());
}
