//! HTTPS, with a certificate of the tests' own (`openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500
//! -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE`).

#![allow(clippy::expect_used, reason = "a test fails where it breaks")]

mod common;

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aligner_serve::{ServeConfig, Service, TlsListener, serve};
use common::Scripted;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn trusting() -> ureq::Agent {
    let pem = std::fs::read(file("cert.pem")).expect("a certificate");
    let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item.expect("PEM") {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&certificates))
        .build();
    ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(Duration::from_secs(5)))
        .build()
        .into()
}

#[test]
fn a_client_that_trusts_the_certificate_is_served_while_a_handshake_hangs() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads");
    let _guard = runtime.enter();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let listener =
        TlsListener::new(listener, &file("cert.pem"), &file("key.pem")).expect("a certificate and its key");
    let service =
        Service::new(ServeConfig::default(), Scripted::replacing("flat", "round")).expect("a service");
    let served = runtime.spawn(serve(service, listener, std::future::pending()));
    // It connects and says nothing.
    let hanging = TcpStream::connect(address).expect("a connection");
    let url = format!("https://localhost:{}/v1/corrections", address.port());
    let body = r#"{"question": "q", "answer": "It is flat."}"#;
    let text = trusting()
        .post(&url)
        .send(body)
        .and_then(|mut response| response.body_mut().read_to_string())
        .expect("a correction");
    assert!(text.contains("It is round."), "{text}");
    // One that does not trust it gets nothing.
    assert!(
        ureq::get(&url.replace("/v1/corrections", "/health"))
            .call()
            .is_err()
    );
    drop(hanging);
    served.abort();
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("threads");
    let _guard = runtime.enter();
    let tls = |certificates: &str, key: &str| {
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let error = TlsListener::new(listener, &file(certificates), &file(key)).expect_err("unusable");
        error.to_string()
    };
    assert!(tls("missing.pem", "key.pem").contains("missing.pem"));
    let error = tls("key.pem", "key.pem");
    assert!(error.contains("no certificate"), "{error}");
    assert!(tls("cert.pem", "cert.pem").contains("cert.pem"));
}
