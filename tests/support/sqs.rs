//! A queue in moto's SQS as its owner sees it, and its notifications from a bucket.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::moto::Moto;
use super::within::PATIENCE;

/// The time between two looks at a queue: SQS does not report changes.
const LOOK: Duration = Duration::from_millis(50);

static QUEUES: AtomicUsize = AtomicUsize::new(0);

/// A queue that no other test uses.
pub struct Queue {
    client: Client,
    moto: String,
    pub url: String,
    arn: String,
}

impl Queue {
    pub async fn of(moto: &Moto) -> Self {
        Self::with(moto, &[]).await
    }

    /// Creates a queue that moves a message to `dead_letters` after this many receives.
    pub async fn before(moto: &Moto, dead_letters: &Self, most_receives: u32) -> Self {
        let policy = json!({"deadLetterTargetArn": dead_letters.arn, "maxReceiveCount": most_receives.to_string()});
        Self::with(moto, &[(QueueAttributeName::RedrivePolicy, &policy.to_string())]).await
    }

    async fn with(moto: &Moto, attributes: &[(QueueAttributeName, &str)]) -> Self {
        let client = Client::new(&moto.anyone());
        let name = format!("queue-{}", QUEUES.fetch_add(1, Ordering::Relaxed));
        let mut request = client.create_queue().queue_name(name);
        for (attribute, value) in attributes {
            request = request.attributes(attribute.clone(), *value);
        }
        let url = request.send().await.expect("a queue").queue_url.expect("its address");
        // moto names itself by the address of the request.
        let (_, path) = url.trim_start_matches("http://").split_once('/').expect("a path");
        let url = format!("{}/{path}", moto.url());
        let mut queue = Self { client, moto: moto.url().to_owned(), url, arn: String::new() };
        queue.arn = queue.attribute(QueueAttributeName::QueueArn).await;
        queue
    }

    pub async fn send(&self, body: &str) {
        self.client.send_message().queue_url(&self.url).message_body(body).send().await.expect("it is sent");
    }

    /// Sends the notification that S3 sends about a new object, its key encoded as S3 does.
    pub async fn notify(&self, bucket: &str, key: &str) {
        self.send(&s3_event(bucket, key).to_string()).await;
    }

    async fn attribute(&self, name: QueueAttributeName) -> String {
        let request = self.client.get_queue_attributes().queue_url(&self.url).attribute_names(name.clone());
        let attributes = request.send().await.expect("attributes").attributes.unwrap_or_default();
        attributes.get(&name).cloned().unwrap_or_default()
    }

    /// The number of messages that wait, and the number in flight. One request reads both, because a message in flight may begin to wait
    /// between two requests.
    pub async fn messages(&self) -> (usize, usize) {
        let waiting = QueueAttributeName::ApproximateNumberOfMessages;
        let in_flight = QueueAttributeName::ApproximateNumberOfMessagesNotVisible;
        let request = self.client.get_queue_attributes().queue_url(&self.url);
        let request = request.attribute_names(waiting.clone()).attribute_names(in_flight.clone());
        let attributes = request.send().await.expect("attributes").attributes.unwrap_or_default();
        let number = |name: &QueueAttributeName| attributes[name].parse().expect("a number");
        (number(&waiting), number(&in_flight))
    }

    /// Waits until this many messages wait, and this many are in flight.
    pub async fn wait_for(&self, waiting: usize, in_flight: usize) {
        let waited = timeout(PATIENCE, async {
            while self.messages().await != (waiting, in_flight) {
                sleep(LOOK).await;
            }
        });
        let in_time = waited.await.is_ok();
        let seen = self.messages().await;
        assert!(in_time, "waited for {waiting} messages and {in_flight} in flight, saw {seen:?}");
    }

    /// Waits until every remaining message can be received.
    pub async fn wait_until_none_in_flight(&self) {
        let waited = timeout(PATIENCE, async {
            while self.messages().await.1 > 0 {
                sleep(LOOK).await;
            }
        });
        assert!(waited.await.is_ok(), "messages stay in flight");
    }

    /// Makes S3 itself notify the queue about new objects in `bucket`, with `by_topic` through an SNS topic.
    pub async fn follow(&self, moto: &Moto, bucket: &str, by_topic: bool) {
        let (kind, target) = if by_topic {
            let topic = format!("topic-{}", QUEUES.fetch_add(1, Ordering::Relaxed));
            let arn = format!("arn:aws:sns:us-east-1:123456789012:{topic}");
            self.sns(&[("Action", "CreateTopic"), ("Name", &topic)]).await;
            self.sns(&[("Action", "Subscribe"), ("TopicArn", &arn), ("Protocol", "sqs"), ("Endpoint", &self.arn)])
                .await;
            ("Topic", arn)
        } else {
            ("Queue", self.arn.clone())
        };
        let body = format!(
            "<NotificationConfiguration><{kind}Configuration><Id>1</Id><{kind}>{target}</{kind}>\
             <Event>s3:ObjectCreated:*</Event></{kind}Configuration></NotificationConfiguration>"
        );
        let request = reqwest::Client::new().put(format!("{}/{bucket}?notification", moto.url())).body(body);
        let answer = request.send().await.expect("moto");
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap_or_default());
    }

    async fn sns(&self, parameters: &[(&str, &str)]) {
        let scope =
            "AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/sns/aws4_request, SignedHeaders=host, Signature=none";
        let form = [("Version", "2010-03-31")].iter().chain(parameters).collect::<Vec<_>>();
        let answer = reqwest::Client::new().post(&self.moto).header("Authorization", scope).form(&form).send().await;
        let answer = answer.expect("moto");
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap_or_default());
    }
}

/// S3's event about a new object, its key encoded as S3 does.
pub fn s3_event(bucket: &str, key: &str) -> Value {
    let key: String = url::form_urlencoded::byte_serialize(key.as_bytes()).collect();
    json!({"Records": [{
        "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "us-east-1", "eventName": "ObjectCreated:Put",
        "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": bucket}, "object": {"key": key}},
    }]})
}
