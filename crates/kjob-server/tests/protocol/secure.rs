//! A client that speaks TLS, and the files of a server that does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use kjob_server::tls::{Tls, TlsOptions};
use kjob_test_certificates::{Authority, Files, Signed};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tempfile::{TempDir, tempdir};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::raw::in_time;

/// An authority, and a server's certificate of it in files.
pub(crate) struct Setup {
    pub(crate) authority: Authority,
    pub(crate) dir: TempDir,
    pub(crate) files: Files,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let authority = Authority::new("the tests' authority");
        let dir = tempdir().unwrap();
        let signed = authority.server(&["localhost", "127.0.0.1"]);
        let files = signed.write(dir.path(), "server").unwrap();
        Self {
            authority,
            dir,
            files,
        }
    }

    pub(crate) fn options(&self) -> TlsOptions {
        TlsOptions::new(&self.files.certificate, &self.files.key)
    }

    pub(crate) fn tls(&self) -> Tls {
        Tls::load(self.options()).unwrap()
    }

    /// A client that trusts the authority.
    pub(crate) fn client(&self) -> SecureClient {
        SecureClient::new(&self.authority)
    }
}

/// A client of the name `localhost`; clones share their sessions.
#[derive(Clone)]
pub(crate) struct SecureClient {
    config: ClientConfig,
    name: ServerName<'static>,
}

impl SecureClient {
    fn new(authority: &Authority) -> Self {
        Self::with(authority, rustls::ALL_VERSIONS, None)
    }

    pub(crate) fn with(
        authority: &Authority,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<&Signed>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        let pem = authority.pem().as_bytes();
        roots
            .add(CertificateDer::from_pem_slice(pem).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let certificate = CertificateDer::from_pem_slice(own.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                let chain = vec![certificate.unwrap()];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        Self {
            config,
            name: "localhost".try_into().unwrap(),
        }
    }

    pub(crate) fn asking_for(mut self, name: &'static str) -> Self {
        self.name = name.try_into().unwrap();
        self
    }

    pub(crate) fn offering(mut self, protocols: &[&str]) -> Self {
        let protocols = protocols.iter().map(|name| name.as_bytes().to_vec());
        self.config.alpn_protocols = protocols.collect();
        self
    }

    pub(crate) async fn connect(&self, addr: SocketAddr) -> io::Result<Secure> {
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        let stream = TcpStream::connect(addr).await?;
        let shaken = connector.connect(self.name.clone(), stream);
        let stream = in_time("a handshake", shaken).await?;
        Ok(Secure { stream })
    }

    /// A whole call. A client of TLS 1.3 hears only when it reads that it was refused.
    pub(crate) async fn call(&self, addr: SocketAddr) -> io::Result<Secure> {
        let mut secure = self.connect(addr).await?;
        secure.call().await?;
        Ok(secure)
    }
}

/// A connection.
pub(crate) struct Secure {
    pub(crate) stream: TlsStream<TcpStream>,
}

impl Secure {
    /// Asks for `/healthz` over HTTP/1.1.
    pub(crate) async fn call(&mut self) -> io::Result<()> {
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        self.stream.write_all(request).await?;
        let mut reply = Vec::new();
        while !is_whole(&reply) {
            let read = in_time("a reply", self.stream.read_buf(&mut reply)).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        assert!(reply.starts_with(b"HTTP/1.1 200 OK\r\n"));
        Ok(())
    }

    pub(crate) fn kind(&self) -> HandshakeKind {
        self.stream.get_ref().1.handshake_kind().unwrap()
    }

    pub(crate) fn protocol(&self) -> Option<&str> {
        let protocol = self.stream.get_ref().1.alpn_protocol();
        protocol.map(|name| std::str::from_utf8(name).unwrap())
    }

    /// The certificate that the server showed.
    pub(crate) fn shown(&self) -> CertificateDer<'static> {
        self.stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }
}

fn is_whole(reply: &[u8]) -> bool {
    let text = String::from_utf8_lossy(reply);
    text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        length.unwrap().parse() == Ok(body.len())
    })
}
