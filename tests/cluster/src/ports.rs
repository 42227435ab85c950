//! Ports for programs that can't be started on one of the system's choice.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the ports that Linux gives to outgoing connections, or one of those could take a port between now and the
/// program's start; and below a cluster's node ports.
const LOWEST: u32 = 20_000;
const COUNT: u32 = 10_000;

/// An address that nobody listens on, each time another one.
///
/// # Errors
///
/// If no port can be listened on.
pub fn free(address: IpAddr) -> io::Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // other processes look for ports at the same time
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
