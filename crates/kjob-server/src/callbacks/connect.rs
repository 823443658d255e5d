//! One request to a receiver, over a connection of its own: the addresses that a name leads to are
//! looked at, and then those and no others are connected to.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::hosts::{Host, Target};

/// Why a receiver gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("its name cannot be looked up: {0}")]
    Lookup(io::Error),
    #[error("its name leads to no public address; allow the address itself, if that is meant")]
    NotPublic,
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("no TLS: {0}")]
    Tls(io::Error),
    #[error("no answer: {0}")]
    Broken(#[from] hyper::Error),
}

/// Sends a request, by TLS if there is one, and gives the status of its answer. Redirects are not
/// followed.
pub(super) async fn send(
    target: &Target,
    tls: Option<Arc<rustls::ClientConfig>>,
    request: Request<Full<Bytes>>,
) -> Result<StatusCode, SendError> {
    let stream = open(target).await?;
    let Some(tls) = tls else {
        return exchange(stream, request).await;
    };
    let name = match &target.host {
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(io::Error::other),
        Host::Address(address) => Ok(ServerName::from(*address)),
    };
    let name = name.map_err(SendError::Tls)?;
    let connector = TlsConnector::from(tls);
    let stream = connector.connect(name, stream).await;
    exchange(stream.map_err(SendError::Tls)?, request).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<StatusCode, SendError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with this call, whatever the receiver goes on to send.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    Ok(sender.send_request(request).await?.status())
}

async fn open(target: &Target) -> Result<TcpStream, SendError> {
    let addresses = match &target.host {
        // It is on the list itself.
        Host::Address(address) => vec![SocketAddr::new(*address, target.port)],
        Host::Name(name) => {
            let found = lookup_host((name.as_str(), target.port)).await;
            let found = found.map_err(SendError::Lookup)?;
            found.filter(|address| is_public(address.ip())).collect()
        }
    };
    if addresses.is_empty() {
        return Err(SendError::NotPublic);
    }
    let stream = TcpStream::connect(&addresses[..]).await;
    stream.map_err(SendError::Connect)
}

/// Whether an address is one of the whole network, and not of this machine, of the network that it is
/// in, or set aside for a purpose (IANA's special-purpose registries).
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_documentation()
        // This network; multicast and what is reserved beyond.
        || a == 0
        || a >= 224
        // Shared with a provider's other customers.
        || (a == 100 && (64..128).contains(&b))
        // Protocol assignments, 6to4 relays, benchmarks.
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19));
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    // Global unicast; all else is local, multicast, or stands for an IPv4 address.
    let is_global = a & 0xe000 == 0x2000;
    let is_special = match a {
        // Protocol assignments, Teredo among them; documentation.
        0x2001 => b < 0x0200 || b == 0x0db8,
        // 6to4.
        0x2002 => true,
        // Documentation.
        0x3fff => b < 0x1000,
        _ => false,
    };
    is_global && !is_special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        let is = |text: &str| is_public(text.parse().unwrap());
        for text in [
            "1.1.1.1",
            "93.184.215.14",
            "100.63.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
        ] {
            assert!(is(text), "{text}");
        }
        for text in [
            "127.0.0.1",
            "127.8.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "10.1.1.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "fec0::1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "3fff::1",
        ] {
            assert!(!is(text), "{text}");
        }
    }
}
