//! Health and admin answer while every thread that serves requests is busy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation fails the test")]

use axum::body::Body;
use durward_runtime::connection::{HttpRequest, HttpResponse, HttpService};
use durward_runtime::limits::ServerLimits;
use durward_runtime::supervisor::Supervisor;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::available_parallelism;
use tokio::net::TcpListener;
use tokio::runtime::Builder;

/// Occupies its thread from the first request on, until `release` is dropped.
#[derive(Clone)]
struct Busy {
    entered: mpsc::Sender<()>,
    release: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Busy {
    fn occupy(&self) {
        self.entered.send(()).unwrap();
        // the lock is held by one thread, and awaited by the others
        let _ = self.release.lock().unwrap().recv();
    }
}

impl HttpService for Busy {
    async fn handle(self, _: HttpRequest) -> HttpResponse {
        self.occupy();
        HttpResponse::new(Body::empty())
    }
}

#[derive(Clone)]
struct Health;

impl HttpService for Health {
    async fn handle(self, _: HttpRequest) -> HttpResponse {
        HttpResponse::new(Body::from("healthy"))
    }
}

fn send(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    stream
}

#[test]
fn admin_answers_while_every_other_thread_is_busy() {
    const WORKERS: usize = 2;
    let runtime = Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build().unwrap();
    let (entered, entries) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let busy = Busy { entered, release: Arc::new(Mutex::new(released)) };
    let (requests, admin, supervisor) = runtime.block_on(async {
        let mut supervisor = Supervisor::new(ServerLimits::default()).unwrap();
        let sockets = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let [requests, admin] = sockets;
        let (requests, admin) = (requests.await.unwrap(), admin.await.unwrap());
        let addresses = (requests.local_addr().unwrap(), admin.local_addr().unwrap());
        supervisor.serve(requests, None, busy.clone());
        supervisor.serve_admin(admin, None, Health);
        (addresses.0, addresses.1, supervisor)
    });
    // each connection goes to the runtime with the fewest
    let threads = available_parallelism().unwrap().get();
    let streams: Vec<TcpStream> = (0..threads).map(|_| send(requests)).collect();
    (0..threads).for_each(|_| entries.recv().unwrap());
    for _ in 0..WORKERS {
        let busy = busy.clone();
        runtime.spawn(async move { busy.occupy() });
    }
    (0..WORKERS).for_each(|_| entries.recv().unwrap());
    for _ in 0..3 {
        let mut answer = String::new();
        send(admin).read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("healthy"), "{answer}");
    }
    drop(release);
    drop((streams, supervisor));
}
