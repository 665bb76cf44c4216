//! Notices to people: a JSON POST to a webhook when a pipeline needs attention, and when it no longer does.
//!
//! [`due`] decides which notices are due, as a plain function of what was seen. A notice that cannot be sent is retried and holds up
//! nothing else.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::CONTENT_TYPE;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::component::Component;
use crate::config::{Preset, Scope, SecretVariable, Spec};
use crate::dead_letter::DeadLetters;
use crate::failure::Chain;
use crate::http::{self, Address, Client, Method, Redaction};
use crate::secret::Secret;
use crate::telemetry::listener::Observed;
use crate::telemetry::metrics::Metrics;
use due::{Due, Seen};

mod due;

/// The address of the webhook.
pub(crate) const URL: SecretVariable = SecretVariable::checked(
    Scope::Process,
    "AUDITSYNC_NOTICE_URL",
    Preset::Nothing,
    |text| webhook(text).map(drop),
    "Webhook for notices (JSON with text, as for Slack): not ready for 15m, ready again, dead letters, silence.",
)
.renewed("auditsync re-reads it on SIGHUP.");

/// Every variable of notices, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[&URL.spec];

/// How often the pipelines are checked.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How many notices wait at most while the webhook cannot be reached.
const MOST_WAITING: usize = 50;

/// The most bytes of an answer. A webhook answers with a word.
const LARGEST_ANSWER: usize = 64 * 1024;

/// How long the end of the process waits for the last notices.
const LAST_LOOK: Duration = Duration::from_secs(10);

/// The longest pause after a notice that could not be sent. The first pause is `LOOK_EVERY`, and each one doubles it.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// The shortest time between two logged failures to send.
const COMPLAIN_EVERY: Duration = Duration::from_secs(3600);

/// Parses the address of the webhook. Its path and query are secret, so an error does not quote it.
fn webhook(text: &str) -> Result<Url, String> {
    webhook_of_build(text, cfg!(feature = "tls"))
}

/// Parses the address for a build with or without TLS.
fn webhook_of_build(text: &str, has_tls: bool) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| "must be an address that begins with https://".to_owned())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a user or a password".to_owned());
    }
    match url.scheme() {
        "https" if has_tls => Ok(url),
        // The client would refuse it as well, but quote its path.
        "https" => Err("cannot be https://, because this build has no TLS; install a build that has it".to_owned()),
        "http" if http::is_loopback(&url) => Ok(url),
        _ => Err("must begin with https://; plain http:// would show the secrets to others".to_owned()),
    }
}

/// A pipeline that is watched.
pub(crate) struct Watched {
    /// Its liveness and metrics.
    pub(crate) observed: Observed,
    /// Its dead letters.
    pub(crate) dead_letters: DeadLetters,
}

/// The task that watches the pipelines and sends notices.
pub(crate) struct Notices {
    /// Cancelled when the pipelines have ended.
    end: CancellationToken,
    watching: JoinHandle<()>,
    url: Secret,
}

impl Notices {
    /// Looks at the pipelines for the last time, and sends what is due. A webhook that does not answer holds up nothing for long.
    pub(crate) async fn finish(self) {
        self.end.cancel();
        let abort = self.watching.abort_handle();
        if timeout(LAST_LOOK, self.watching).await.is_err() {
            abort.abort();
            unsent(&format!("no answer within {}", humantime::format_duration(LAST_LOOK)), &self.url);
        }
    }
}

fn unsent(error: &str, url: &Secret) {
    tracing::warn!(error, variable = %url.variable(), "the last notices could not be sent; auditsync ends without them");
}

/// Watches the pipelines until [`Notices::finish`].
pub(crate) fn watch(pipelines: Vec<Watched>, url: Secret, settings: http::Settings) -> Notices {
    let end = CancellationToken::new();
    let watching = tokio::spawn(watch_until(end.clone(), pipelines, url.clone(), settings));
    Notices { end, watching, url }
}

async fn watch_until(end: CancellationToken, pipelines: Vec<Watched>, url: Secret, settings: http::Settings) {
    // The requests do not count for any configured pipeline.
    let client = Client::new(settings, Metrics::of(&"notices".into()));
    let mut due = Due::new(pipelines.len());
    let (mut waiting, mut complained) = (VecDeque::new(), None::<Instant>);
    let (mut again_at, mut pause) = (Instant::now(), LOOK_EVERY);
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_last = end.run_until_cancelled(looks.tick()).await.is_none();
        let (now, wall) = (Instant::now(), Timestamp::now());
        let seen: Vec<_> = pipelines.iter().map(|watched| watched.look(wall)).collect();
        waiting.extend(due.notices(&seen, now));
        let excess = waiting.len().saturating_sub(MOST_WAITING);
        if excess > 0 {
            // The newest notices say most about the present.
            waiting.drain(..excess);
            tracing::warn!(notices = excess, "the oldest notices are dropped, because the webhook does not take them");
        }
        if now < again_at && !is_last {
            continue;
        }
        while let Some(text) = waiting.front() {
            if let Err(error) = send(&client, &url, text).await {
                again_at = Instant::now() + pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
                if is_last {
                    unsent(&error, &url);
                } else if complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
                    complained = Some(Instant::now());
                    tracing::warn!(error, variable = %url.variable(), "a notice could not be sent; auditsync retries it");
                }
                break;
            }
            (complained, pause) = (None, LOOK_EVERY);
            waiting.pop_front();
        }
        if is_last {
            return;
        }
    }
}

impl Watched {
    fn look(&self, now: Timestamp) -> Seen {
        let Observed { name, liveness, .. } = &self.observed;
        let readiness = liveness.readiness();
        Seen {
            pipeline: name.clone(),
            is_ready: readiness.is_good,
            reason: readiness.reason,
            dead_letters: self.dead_letters.kept(),
            silent_for: liveness.silent_for(now),
        }
    }
}

/// Posts a notice. An error shows neither path nor query of the address.
async fn send(client: &Client, url: &Secret, text: &str) -> Result<(), String> {
    let secret = url.current();
    let target = webhook(secret.expose_secret())?;
    let mut shown = target.clone();
    shown.set_path("/");
    let path = SecretString::from(target.path());
    let hidden = Redaction::of([&secret, &path]);
    let body = serde_json::json!({ "text": escaped(text) }).to_string();
    let request = client.request(Method::POST, target).map_err(|error| Chain(&error).to_string())?;
    let request = request.header(CONTENT_TYPE, "application/json").body(body);
    let reply = client.exchange(Component::Destination, request, &Address::of(&shown), LARGEST_ANSWER, &hidden).await;
    match reply {
        Ok(reply) if reply.status.is_success() => Ok(()),
        Ok(reply) => Err(format!("{} answered {}", Address::of(&shown), reply.status)),
        Err(error) => Err(Chain(&error).to_string()),
    }
}

/// Escapes the three characters with a meaning in Slack: `docs.slack.dev`, formatting message text.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline_name::PipelineName;
    use crate::telemetry::liveness::{Liveness, Pace};
    use crate::variable_name::VariableName;

    #[tokio::test(start_paused = true)]
    async fn a_pipeline_that_does_not_get_ready_is_told_after_fifteen_minutes_and_so_is_that_it_is_ready() {
        let pace = Pace { interval: Duration::from_secs(60), exchange: Duration::from_secs(30) };
        let (name, liveness) = (PipelineName::from("a:b"), Liveness::new(pace));
        let metrics = Metrics::of(&name);
        let dead_letters = DeadLetters::new(name.clone(), None, VariableName::from("AUDITSYNC_DEAD_LETTER_PATH"));
        let observed = Observed { name, liveness: liveness.clone(), metrics, is_alone: true };
        let (watched, mut due) = (Watched { observed, dead_letters }, Due::new(1));
        let mut look = || due.notices(&[watched.look(Timestamp::now())], Instant::now());
        let begun = Instant::now();
        let told = loop {
            match look().pop() {
                Some(told) => break told,
                None => tokio::time::advance(LOOK_EVERY).await,
            }
        };
        assert_eq!(begun.elapsed(), Duration::from_secs(15 * 60));
        assert_eq!(
            told,
            "auditsync: the pipeline a:b has not been ready for 15m: no sync has succeeded since the start"
        );
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(look(), [""; 0]);
        liveness.succeeds();
        assert_eq!(look(), ["auditsync: the pipeline a:b is ready again"]);
    }

    #[test]
    fn a_webhook_is_encrypted_or_on_this_machine_and_never_quoted() {
        for text in ["https://hooks.example.com/services/T0/B0/secret", "http://127.0.0.1:1/x?key=secret"] {
            assert!(webhook(text).is_ok(), "{text}");
        }
        for text in
            ["http://hooks.example.com/secret", "secret", "https://secret:secret@hooks.example.com/", "ftp://secret"]
        {
            let rule = webhook(text).unwrap_err();
            assert!(!rule.contains("secret ") && !rule.contains("example"), "{rule}");
        }
    }

    #[test]
    fn a_build_without_tls_refuses_an_encrypted_webhook_and_does_not_quote_it() {
        let rule = webhook_of_build("https://hooks.example.com/services/T0/B0/secret", false).unwrap_err();
        assert!(rule.contains("no TLS") && !rule.contains("example") && !rule.contains("secret"), "{rule}");
        assert!(webhook_of_build("http://127.0.0.1:1/secret", false).is_ok());
    }

    #[test]
    fn what_has_a_meaning_in_slack_is_escaped() {
        assert_eq!(escaped("<!channel> & co"), "&lt;!channel&gt; &amp; co");
    }
}
