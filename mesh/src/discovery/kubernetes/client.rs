//! The way to the API server, and its errors in words.

use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// Longer errors are cut.
const MAX_ERROR: usize = 300;

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "no Kubernetes API: {0}; run this as a pod with a service account, or set KUBECONFIG to a \
         kubeconfig file"
    )]
    InCluster(#[source] kube::config::InClusterError),
    #[error("KUBECONFIG: {0}")]
    Kubeconfig(#[source] Box<kube::config::KubeconfigError>),
    #[error("the Kubernetes API at {url}: {source}")]
    Client {
        url: String,
        #[source]
        source: Box<kube::Error>,
    },
}

/// A client of the API server that KUBECONFIG names, or else of the cluster that this pod is in,
/// and the server's address. Nothing is connected to yet.
///
/// # Errors
/// When neither says where the server is.
pub(super) async fn connect() -> Result<(Client, String), ConnectError> {
    let mut config = if std::env::var_os("KUBECONFIG").is_some() {
        let refuse = |error| ConnectError::Kubeconfig(Box::new(error));
        let file = Kubeconfig::from_env().map_err(refuse)?.unwrap_or_default();
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .map_err(refuse)?
    } else {
        Config::incluster_env().map_err(ConnectError::InCluster)?
    };
    config.connect_timeout = Some(CONNECT);
    // Who asks tries again itself, and says so meanwhile.
    config.default_retry = false;
    let url = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|error| ConnectError::Client {
        url: url.clone(),
        source: Box::new(error),
    })?;
    Ok((client, url.trim_end_matches('/').to_owned()))
}

/// The HTTP status of an error that the API server answered with.
pub(super) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// An error as a sentence for people.
pub fn words(error: &kube::Error) -> String {
    let text = match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        kube::Error::Api(status) => format!("HTTP status {}", status.code),
        // The outer errors say that there was one, the inner ones which.
        kube::Error::Service(error) => chain(error.source().unwrap_or(&**error)),
        other => chain(other),
    };
    match text.char_indices().nth(MAX_ERROR) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The error and its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}
