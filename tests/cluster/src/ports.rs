//! Free ports for programs that can't listen on port 0.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the ports of outgoing connections, which could take a port before the program starts, and below a cluster's
/// node ports.
const LOWEST: u32 = 20_000;
const COUNT: u32 = 10_000;

/// A free address; another one at each call.
///
/// # Errors
///
/// If no port can be listened on.
pub fn free(address: IpAddr) -> io::Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // another range for each process
    let own = std::process::id().wrapping_mul(53);
    let mut last = io::ErrorKind::AddrInUse.into();
    for _ in 0..COUNT {
        let port = LOWEST + own.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(port).map_err(io::Error::other)?;
        match TcpListener::bind((address, port)) {
            Ok(_) => return Ok(SocketAddr::new(address, port)),
            Err(error) => last = error,
        }
    }
    Err(last)
}
