//! Requests to the queue, and what their answers mean.
//!
//! Codes are those of <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html> and of each action there.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use aws_config::Region;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
    MessageSystemAttributeName, QueueAttributeName,
};
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::timeout;
use url::Url;

use super::super::bucket::Buckets;
use super::super::error::Error;
use super::super::variables::{LOG_REGION, SQS_QUEUE_URL};
use super::flight::Handle;
use crate::aws::answer::{Failure, Meaning};
use crate::aws::call::CallError;
use crate::aws::exchange::Exchange;
use crate::http;

/// The most messages of one request.
const BATCH: usize = 10;

/// The largest answer, in bytes: ten messages of 1 MiB, the most that a queue takes. In JSON, a character may take three times its bytes.
const LARGEST: usize = 32 * 1024 * 1024;

/// The most requests about messages at a time.
const AT_ONCE: usize = 8;

/// A message as it was received.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) id: String,
    /// The name of this delivery of it.
    pub(super) receipt: String,
    pub(super) body: String,
    /// The time at which it was sent, by the queue's clock; none if the answer does not say.
    pub(super) sent: Option<Timestamp>,
    /// How often it was received, this time included.
    pub(super) receives: u32,
}

/// The result of requests about several messages.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The messages for which the request succeeded.
    pub(super) done: Vec<Handle>,
    /// The messages that the queue no longer knows by this receipt; another instance may have them.
    pub(super) lost: Vec<Handle>,
    /// The error of the others.
    pub(super) failure: Option<Error>,
}

/// The attributes of the queue that `check` shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    /// The approximate number of waiting messages.
    pub(super) waiting: String,
    /// The approximate number of messages in flight.
    pub(super) in_flight: String,
    pub(super) has_redrive: bool,
    pub(super) is_fifo: bool,
}

/// The queue.
pub(super) struct Sqs {
    url: Url,
    buckets: Arc<Buckets>,
    http: http::Settings,
    client: Mutex<Option<Client>>,
}

impl Sqs {
    pub(super) fn new(url: Url, buckets: Arc<Buckets>, http: http::Settings) -> Self {
        Self { url, buckets, http, client: Mutex::default() }
    }

    /// The queue's address, for messages.
    pub(super) fn location(&self) -> String {
        self.url.to_string()
    }

    /// Receives up to ten messages, and hides them from others for `visibility`. Waits up to `wait` (at most 20 s,
    /// whole seconds) for the first.
    pub(super) async fn receive(&self, wait: Duration, visibility: Duration) -> Result<Vec<Message>, Error> {
        let request = |client: Client, exchange: Exchange| {
            let request = client.receive_message().queue_url(self.url.as_str());
            let request = request
                .max_number_of_messages(10)
                .wait_time_seconds(whole_seconds(wait))
                .visibility_timeout(whole_seconds(visibility))
                .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
                .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp);
            Box::pin(request.customize().interceptor(exchange).send())
        };
        let received = self.call("receive messages from", wait, request).await?;
        let message = |message: aws_sdk_sqs::types::Message| {
            let attributes = message.attributes.unwrap_or_default();
            let number = |name| attributes.get(&name)?.parse().ok();
            let counted = number(MessageSystemAttributeName::ApproximateReceiveCount);
            let sent = number(MessageSystemAttributeName::SentTimestamp);
            Some(Message {
                id: message.message_id.unwrap_or_default(),
                receipt: message.receipt_handle?,
                body: message.body.unwrap_or_default(),
                sent: sent.and_then(|sent| Timestamp::from_millisecond(sent).ok()),
                receives: counted.and_then(|counted| u32::try_from(counted).ok()).unwrap_or(1),
            })
        };
        Ok(received.messages.unwrap_or_default().into_iter().filter_map(message).collect())
    }

    /// Deletes messages.
    pub(super) async fn delete(&self, handles: Vec<Handle>) -> Outcome {
        let delete = |batch: Vec<Handle>| async move {
            let entry = |(id, handle): (usize, &Handle)| {
                DeleteMessageBatchRequestEntry::builder().id(id.to_string()).receipt_handle(&handle.receipt).build()
            };
            let entries: Vec<_> = batch.iter().enumerate().filter_map(|handle| entry(handle).ok()).collect();
            let request = |client: Client, exchange: Exchange| {
                let request = client.delete_message_batch().queue_url(self.url.as_str()).set_entries(Some(entries));
                Box::pin(request.customize().interceptor(exchange).send())
            };
            let failed = self.call("delete messages from", Duration::ZERO, request).await.map(|answer| answer.failed);
            self.outcome(batch, failed)
        };
        in_batches(handles, delete).await
    }

    /// Hides messages from others for `visibility` from now on; zero shows them again.
    pub(super) async fn hide(&self, handles: Vec<Handle>, visibility: Duration) -> Outcome {
        let hide = |batch: Vec<Handle>| async move {
            let entry = |(id, handle): (usize, &Handle)| {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder();
                let entry = entry.id(id.to_string()).receipt_handle(&handle.receipt);
                entry.visibility_timeout(whole_seconds(visibility)).build()
            };
            let entries: Vec<_> = batch.iter().enumerate().filter_map(|handle| entry(handle).ok()).collect();
            let request = |client: Client, exchange: Exchange| {
                let request =
                    client.change_message_visibility_batch().queue_url(self.url.as_str()).set_entries(Some(entries));
                Box::pin(request.customize().interceptor(exchange).send())
            };
            let action = "change the visibility of messages in";
            let failed = self.call(action, Duration::ZERO, request).await.map(|answer| answer.failed);
            self.outcome(batch, failed)
        };
        in_batches(handles, hide).await
    }

    /// Reads the queue's attributes.
    pub(super) async fn attributes(&self) -> Result<Attributes, Error> {
        let request = |client: Client, exchange: Exchange| {
            let request = client.get_queue_attributes().queue_url(self.url.as_str());
            let request = request.attribute_names(QueueAttributeName::All);
            Box::pin(request.customize().interceptor(exchange).send())
        };
        let answer = self.call("read the attributes of", Duration::ZERO, request).await?;
        let attributes = answer.attributes.unwrap_or_default();
        let text = |name: QueueAttributeName| attributes.get(&name).cloned().unwrap_or_else(|| "?".to_owned());
        Ok(Attributes {
            waiting: text(QueueAttributeName::ApproximateNumberOfMessages),
            in_flight: text(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
            has_redrive: attributes.contains_key(&QueueAttributeName::RedrivePolicy),
            is_fifo: self.url.path().rsplit_once('.').is_some_and(|(_, kind)| kind == "fifo"),
        })
    }

    fn outcome(&self, batch: Vec<Handle>, failed: Result<Vec<BatchResultErrorEntry>, Error>) -> Outcome {
        let failed = match failed {
            Ok(failed) => failed,
            Err(failure) => return Outcome { failure: Some(failure), ..Outcome::default() },
        };
        let mut outcome = Outcome::default();
        for (id, handle) in batch.into_iter().enumerate() {
            match failed.iter().find(|entry| entry.id == id.to_string()) {
                None => outcome.done.push(handle),
                Some(entry) if entry.sender_fault => outcome.lost.push(handle),
                Some(entry) => {
                    let code: String = entry.code.chars().filter(char::is_ascii_alphanumeric).take(80).collect();
                    let cause = format!("the queue answered {code}").into();
                    outcome.failure = Some(
                        CallError::Unavailable { action: "change messages in", location: self.location(), cause }
                            .into(),
                    );
                }
            }
        }
        outcome
    }

    /// Makes a request, whose answer may take `longer` than others.
    async fn call<T, E, F>(
        &self,
        action: &'static str,
        longer: Duration,
        request: impl FnOnce(Client, Exchange) -> F,
    ) -> Result<T, Error>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E>>> + Send,
    {
        let limit = self.http.timeout + longer;
        let exchange = Exchange::up_to(LARGEST);
        let call = async {
            let client = self.client(action).await?;
            Ok(request(client, exchange.clone()).await)
        };
        let slow = || {
            let variable = self.http.timeout_variable.clone();
            Error::from(CallError::Slow { location: self.location(), limit, variable })
        };
        let answer = timeout(limit, call).await.unwrap_or_else(|_| Err(slow()))?;
        match answer {
            Ok(answer) => Ok(answer),
            Err(error) => {
                let code = error.as_service_error().and_then(|error| error.code()).unwrap_or_default().to_owned();
                Err(self.failed(action, &code, Failure::of(&error, &exchange.redaction())).await)
            }
        }
    }

    async fn client(&self, action: &'static str) -> Result<Client, Error> {
        let mut kept = self.client.lock().await;
        if let Some(client) = &*kept {
            return Ok(client.clone());
        }
        let shared = self.buckets.connection().configuration().await.map_err(|cause| {
            let remedy = format!("set {} or AWS_REGION to the queue's region", LOG_REGION.spec.name);
            CallError::unconfigured(action, self.location(), remedy, cause)
        })?;
        let mut shared = shared.into_builder().endpoint_url(self.url.origin().ascii_serialization());
        if let Some(region) = region_of(&self.url) {
            shared = shared.region(Region::new(region.to_owned()));
        }
        let client = Client::new(&shared.build());
        *kept = Some(client.clone());
        Ok(client)
    }

    async fn failed(&self, action: &'static str, code: &str, Failure { meaning, cause }: Failure) -> Error {
        let location = self.location();
        let is_throttled = code.contains("Throttl") || code == "OverLimit";
        if is_throttled || (meaning == Meaning::Unavailable && !code.starts_with("Kms")) {
            return CallError::Unavailable { action, location, cause }.into();
        }
        let refused = |remedy: String, is_about_credentials| {
            CallError::Refused { action, location: location.clone(), remedy, is_about_credentials, cause }.into()
        };
        match (code, meaning) {
            ("QueueDoesNotExist" | "AWS.SimpleQueueService.NonExistentQueue" | "InvalidAddress", _) => {
                refused(format!("there is no such queue: correct {}", SQS_QUEUE_URL.spec.name), false)
            }
            (code, _) if code.starts_with("Kms") || code.starts_with("KMS.") => {
                refused("grant kms:Decrypt on the key of the queue, in the role's policy and in the key's".to_owned(), true)
            }
            ("AccessDenied" | "AccessDeniedException", _) | (_, Meaning::Denied) => refused(
                "grant sqs:ReceiveMessage, sqs:DeleteMessage, sqs:ChangeMessageVisibility and sqs:GetQueueAttributes on the queue"
                    .to_owned(),
                true,
            ),
            (_, Meaning::Credentials(remedy)) => {
                self.forget().await;
                refused(remedy.to_owned(), true)
            }
            ("InvalidClientTokenId" | "UnrecognizedClientException" | "InvalidSignatureException"
            | "ExpiredTokenException" | "IncompleteSignature" | "MissingAuthenticationToken", _) => {
                self.forget().await;
                refused("correct the AWS variables, or the profile that the credentials come from".to_owned(), true)
            }
            _ => refused(format!("correct what the answer names, or {}", SQS_QUEUE_URL.spec.name), false),
        }
    }

    /// Forgets the credentials, so that the next call reads them again.
    async fn forget(&self) {
        *self.client.lock().await = None;
        self.buckets.connection().forget().await;
    }
}

/// Does `work` for all messages, in as many requests as necessary.
async fn in_batches<F>(handles: Vec<Handle>, work: impl Fn(Vec<Handle>) -> F) -> Outcome
where
    F: Future<Output = Outcome>,
{
    let batches: Vec<_> = handles.chunks(BATCH).map(<[Handle]>::to_vec).collect();
    let mut whole = Outcome::default();
    let mut outcomes = stream::iter(batches.into_iter().map(work)).buffer_unordered(AT_ONCE);
    while let Some(outcome) = outcomes.next().await {
        whole.done.extend(outcome.done);
        whole.lost.extend(outcome.lost);
        whole.failure = whole.failure.or(outcome.failure);
    }
    whole
}

fn whole_seconds(time: Duration) -> i32 {
    i32::try_from(time.as_secs()).unwrap_or(i32::MAX)
}

/// The region in the address of an AWS queue: <https://docs.aws.amazon.com/general/latest/gr/sqs-service.html>.
fn region_of(url: &Url) -> Option<&str> {
    let host = url.host_str()?;
    if !(host.contains(".amazonaws.com") || host.ends_with(".api.aws")) {
        return None;
    }
    let parts: Vec<_> = host.split('.').collect();
    match parts[..] {
        // Older addresses: <region>.queue.amazonaws.com, queue.amazonaws.com.
        ["queue", "amazonaws", ..] => Some("us-east-1"),
        [region, "queue", ..] => Some(region),
        _ => {
            let at = parts.iter().position(|part| *part == "sqs" || *part == "sqs-fips")?;
            parts.get(at + 1).copied()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_queue_names_its_region() {
        for (url, region) in [
            ("https://sqs.eu-west-1.amazonaws.com/111122223333/q", Some("eu-west-1")),
            ("https://sqs-fips.us-gov-west-1.amazonaws.com/111122223333/q", Some("us-gov-west-1")),
            ("https://sqs.cn-north-1.amazonaws.com.cn/111122223333/q", Some("cn-north-1")),
            ("https://sqs.us-east-1.api.aws/111122223333/q", Some("us-east-1")),
            ("https://vpce-1-2.sqs.us-west-2.vpce.amazonaws.com/111122223333/q", Some("us-west-2")),
            ("https://eu-west-1.queue.amazonaws.com/111122223333/q", Some("eu-west-1")),
            ("https://queue.amazonaws.com/111122223333/q", Some("us-east-1")),
            ("http://127.0.0.1:5000/123456789012/q", None),
            ("https://sqs.example.com/q", None),
        ] {
            assert_eq!(region_of(&Url::parse(url).unwrap()), region, "{url}");
        }
    }
}
