//! How S3 is reached: the configuration that the AWS tools share, read when it is first needed.

use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{AppName, Builder, IdentityCache, RequestChecksumCalculation, ResponseChecksumValidation};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long the configuration may take, and how long the credentials: less than a whole call, so that whichever of them is
/// slow can be named.
const LOADING: Duration = Duration::from_secs(4);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unconfigured {
    /// No variable, profile or instance names the region.
    #[error("no region is configured")]
    NoRegion,
    /// The instance's metadata service, which is asked when nothing else names the region, did not answer in time.
    #[error("the AWS configuration was not read within {} s; with AWS_REGION set, no metadata service is asked for the region", LOADING.as_secs())]
    Slow,
}

/// A client that is made when it is first needed: finding the region may take a request to the instance's metadata service.
pub(crate) struct Connection {
    given: Option<SdkConfig>,
    force_path_style: bool,
    client: Mutex<Option<Client>>,
}

impl Connection {
    /// By the `given` configuration, or else the one that the environment and the AWS files hold.
    pub(crate) fn new(given: Option<SdkConfig>, force_path_style: bool) -> Self {
        Self { given, force_path_style, client: Mutex::default() }
    }

    pub(crate) async fn client(&self) -> Result<Client, Unconfigured> {
        let mut kept = self.client.lock().await;
        if let Some(client) = &*kept {
            return Ok(client.clone());
        }
        let shared = match &self.given {
            Some(given) => given.clone(),
            None => timeout(LOADING, Box::pin(load())).await.map_err(|_| Unconfigured::Slow)?,
        };
        if shared.region().is_none() {
            return Err(Unconfigured::NoRegion);
        }
        let client = self.client_of(&shared);
        *kept = Some(client.clone());
        Ok(client)
    }

    /// The next call reads the configuration again: refused keys may have been replaced in their file by then.
    pub(crate) async fn forget(&self) {
        *self.client.lock().await = None;
    }

    fn client_of(&self, shared: &SdkConfig) -> Client {
        let mut builder = Builder::from(shared)
            // Named rather than "latest", so that an update of the SDK does not change what is sent.
            .behavior_version(BehaviorVersion::v2026_01_12())
            // The engine repeats. A repeated conditional write would also be refused because of its own first attempt.
            .retry_config(RetryConfig::disabled())
            .identity_cache(IdentityCache::lazy().load_timeout(LOADING).build())
            // What S3 itself asks for; older compatible stores refuse the SDK's checksums.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .force_path_style(self.force_path_style);
        // For the User-Agent; a name that could not be sent is left out.
        builder.set_app_name(AppName::new(concat!(env!("CARGO_PKG_NAME"), "-", env!("CARGO_PKG_VERSION"))).ok());
        Client::from_conf(builder.build())
    }
}

/// The default chains of the AWS tools: variables, profiles, web identity, container, instance.
async fn load() -> SdkConfig {
    // Also for the calls that get credentials, to STS and the like.
    aws_config::defaults(BehaviorVersion::v2026_01_12()).retry_config(RetryConfig::disabled()).load().await
}
