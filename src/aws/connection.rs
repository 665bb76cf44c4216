//! Connects to S3, with the configuration that the AWS tools share. It is read at the first call.

use std::collections::HashMap;
use std::time::Duration;

use aws_config::sts::AssumeRoleProvider;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{AppName, Builder, IdentityCache, RequestChecksumCalculation, ResponseChecksumValidation};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// The longest time to read the configuration, and also to get the credentials. It is shorter than a whole call, so that the error can
/// name whichever is slow.
const LOADING: Duration = Duration::from_secs(4);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unconfigured {
    /// No variable, profile or instance names the region.
    #[error("no region is configured")]
    NoRegion,
    /// Nothing else names the region, and the instance's metadata service did not answer in time.
    #[error("could not read the AWS configuration within {} s; set AWS_REGION, so that no metadata service is needed for the region", LOADING.as_secs())]
    Slow,
}

/// How a connection differs from the configuration in the environment and the AWS files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Name the bucket in the path and not in the host.
    pub(crate) force_path_style: bool,
    /// The region; none for the configured one.
    pub(crate) region: Option<String>,
    /// The address of S3, without a slash at its end; none for the configured one.
    pub(crate) endpoint_url: Option<String>,
    /// The role to assume.
    pub(crate) role: Option<Role>,
}

/// A role to assume with the configured credentials.
#[derive(Debug, Clone)]
pub(crate) struct Role {
    pub(crate) arn: String,
    /// The external id that the role's trust policy may require.
    pub(crate) external_id: Option<String>,
}

/// Clients, each made at its first use, since finding the region may take a request to the instance's metadata service.
pub(crate) struct Connection {
    given: Option<SdkConfig>,
    options: Options,
    made: Mutex<Made>,
}

/// The parts made so far.
#[derive(Default)]
struct Made {
    configuration: Option<SdkConfig>,
    /// The clients by region; none stands for the usual region.
    clients: HashMap<Option<String>, Client>,
}

impl Connection {
    /// Makes a connection with the `given` configuration, or else with that of the environment and the AWS files.
    pub(crate) fn new(given: Option<SdkConfig>, options: Options) -> Self {
        Self { given, options, made: Mutex::default() }
    }

    /// Returns a client of S3.
    pub(crate) async fn client(&self) -> Result<Client, Unconfigured> {
        self.client_in(None).await
    }

    /// Returns a client of S3 in a `region`; none for the usual one.
    pub(crate) async fn client_in(&self, region: Option<&str>) -> Result<Client, Unconfigured> {
        let mut made = self.made.lock().await;
        let region = region.map(str::to_owned);
        if let Some(client) = made.clients.get(&region) {
            return Ok(client.clone());
        }
        let shared = self.configured(&mut made).await?;
        let shared = match &region {
            Some(region) => shared.into_builder().region(Region::new(region.clone())).build(),
            None => shared,
        };
        let client = self.client_of(&shared);
        made.clients.insert(region, client.clone());
        Ok(client)
    }

    /// Returns the configuration with the role's credentials, for clients of other AWS services.
    pub(crate) async fn configuration(&self) -> Result<SdkConfig, Unconfigured> {
        self.configured(&mut *self.made.lock().await).await
    }

    async fn configured(&self, made: &mut Made) -> Result<SdkConfig, Unconfigured> {
        if let Some(configuration) = &made.configuration {
            return Ok(configuration.clone());
        }
        let mut shared = match &self.given {
            Some(given) => given.clone(),
            None => timeout(LOADING, Box::pin(load())).await.map_err(|_| Unconfigured::Slow)?,
        };
        if let Some(region) = &self.options.region {
            shared = shared.into_builder().region(Region::new(region.clone())).build();
        }
        if shared.region().is_none() {
            return Err(Unconfigured::NoRegion);
        }
        if let Some(Role { arn, external_id }) = &self.options.role {
            let mut role = AssumeRoleProvider::builder(arn).session_name(env!("CARGO_PKG_NAME")).configure(&shared);
            if let Some(external_id) = external_id {
                role = role.external_id(external_id);
            }
            let role = Box::pin(role.build()).await;
            shared = shared.into_builder().credentials_provider(SharedCredentialsProvider::new(role)).build();
        }
        let mut shared = shared.into_builder();
        // A fixed version, so that an update of the SDK does not change the requests.
        shared.set_behavior_version(Some(BehaviorVersion::v2026_01_12()));
        // The engine retries. A retried conditional write would also conflict with its own first attempt.
        shared.set_retry_config(Some(RetryConfig::disabled()));
        shared.set_identity_cache(Some(IdentityCache::lazy().load_timeout(LOADING).build()));
        // The name for the User-Agent; none if a header cannot carry it.
        shared.set_app_name(AppName::new(concat!(env!("CARGO_PKG_NAME"), "-", env!("CARGO_PKG_VERSION"))).ok());
        Ok(made.configuration.insert(shared.build()).clone())
    }

    /// Makes the next call read the configuration again, since someone may replace refused keys in their file.
    pub(crate) async fn forget(&self) {
        *self.made.lock().await = Made::default();
    }

    fn client_of(&self, shared: &SdkConfig) -> Client {
        let mut builder = Builder::from(shared)
            // S3 itself requires no more, and older compatible stores refuse the SDK's checksums.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .force_path_style(self.options.force_path_style);
        if let Some(url) = &self.options.endpoint_url {
            builder = builder.endpoint_url(url);
        }
        Client::from_conf(builder.build())
    }
}

/// Reads the configuration by the default chains of the AWS tools: variables, profiles, web identity, container, instance.
async fn load() -> SdkConfig {
    // No retries in calls for credentials either, such as those to STS.
    aws_config::defaults(BehaviorVersion::v2026_01_12()).retry_config(RetryConfig::disabled()).load().await
}
