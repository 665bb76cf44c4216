//! Reads the few fields of a record that auditsync uses.
//!
//! Keys are those of
//! <https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html>.
//! Anything else stays in the record, which is delivered whole in any case.

use std::borrow::Cow;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;

use bytes::Bytes;

use super::severity::{self, Names, Said};
use crate::event::{Event, Field, Fields, scalar};
use crate::members::{Member, members};
use crate::source::times::time;

/// A record and its identity.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) event: Event,
    /// A hash of eventID and recipientAccountId; none without an eventID. `sharedEventID` joins different events, so it
    /// does not count.
    pub(super) identity: Option<u64>,
}

/// Reads records. Identities are comparable only among records that one reader, or a clone of it, has read.
#[derive(Debug, Clone, Default)]
pub(super) struct RecordReader {
    hashes: RandomState,
    names: Names,
}

/// The JSON values of a record's members.
#[derive(Default)]
struct Record<'a> {
    time: Option<&'a [u8]>,
    name: Option<&'a [u8]>,
    source: Option<&'a [u8]>,
    category: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
    recipient: Option<&'a [u8]>,
    account: Option<&'a [u8]>,
    address: Option<&'a [u8]>,
    error_code: Option<&'a [u8]>,
    error_message: Option<&'a [u8]>,
    read_only: Option<&'a [u8]>,
    identity: Identity<'a>,
    response: Option<&'a [u8]>,
}

/// The actor.
#[derive(Default)]
struct Identity<'a> {
    kind: Option<&'a [u8]>,
    arn: Option<&'a [u8]>,
    principal: Option<&'a [u8]>,
    user_name: Option<&'a [u8]>,
    session: Option<&'a [u8]>,
}

impl RecordReader {
    /// Reads a record, which must be a valid JSON object.
    pub(super) fn read(&mut self, raw: &Bytes) -> Read {
        let record = Record::of(raw);
        let fields = record.fields(raw);
        let time = record.time.and_then(scalar).and_then(|text| time(&text));
        let has_failed = record.has_failed();
        let severity = severity::of(&record.said(has_failed), &mut self.names);
        let identity = record.id.map(|id| self.hashes.hash_one((id, record.recipient.or(record.account))));
        let outcome = if has_failed { "failure" } else { "success" };
        let event = Event::new(raw.clone(), time, fields).with_severity(severity);
        Read { event: event.with_derived(vec![(Field::Outcome, Cow::Borrowed(outcome))]), identity }
    }
}

impl<'a> Record<'a> {
    fn of(raw: &'a [u8]) -> Self {
        let mut record = Self::default();
        for Member { key, value } in members(raw) {
            let place = match key {
                b"\"eventTime\"" => &mut record.time,
                b"\"eventName\"" => &mut record.name,
                b"\"eventSource\"" => &mut record.source,
                b"\"eventCategory\"" => &mut record.category,
                // Aggregated events spell it differently.
                b"\"eventID\"" | b"\"eventId\"" => &mut record.id,
                b"\"recipientAccountId\"" => &mut record.recipient,
                b"\"accountId\"" => &mut record.account,
                b"\"sourceIPAddress\"" => &mut record.address,
                b"\"errorCode\"" => &mut record.error_code,
                b"\"errorMessage\"" => &mut record.error_message,
                b"\"readOnly\"" => &mut record.read_only,
                b"\"responseElements\"" => &mut record.response,
                b"\"userIdentity\"" => {
                    record.identity = Identity::of(value);
                    continue;
                }
                _ => continue,
            };
            if value != b"null" && value != b"\"\"" {
                *place = Some(value);
            }
        }
        record
    }

    fn fields(&self, raw: &Bytes) -> Fields {
        let mut fields = Fields::default();
        let is_address = |token: &&[u8]| scalar(token).is_some_and(|text| text.parse::<IpAddr>().is_ok());
        for (field, token) in [
            (Field::Id, self.id),
            (Field::Action, self.name),
            (Field::Service, self.source),
            (Field::Category, self.category),
            (Field::Details, self.error_message),
            (Field::ActorId, self.identity.arn.or(self.identity.principal)),
            (Field::ActorName, self.identity.user_name.or_else(|| self.identity.session_name())),
            (Field::ClientAddress, self.address.filter(is_address)),
        ] {
            if let Some(token) = token {
                // The token is a slice of the record, so the difference of their addresses is its offset.
                let start = token.as_ptr() as usize - raw.as_ptr() as usize;
                fields.set(field, start..start + token.len());
            }
        }
        fields
    }

    /// A failed login has a message, but no code.
    fn has_failed(&self) -> bool {
        self.error_code.is_some() || (self.name == Some(b"\"ConsoleLogin\"") && self.says_login_failed())
    }

    fn says_login_failed(&self) -> bool {
        let result = self.response.and_then(|response| member(response, b"\"ConsoleLogin\""));
        result.map_or(self.error_message.is_some(), |result| result == b"\"Failure\"")
    }

    fn said(&self, has_failed: bool) -> Said<'_> {
        let text = |token: Option<&'a [u8]>| token.map(content).unwrap_or_default();
        Said {
            name: text(self.name),
            error_code: text(self.error_code),
            has_failed,
            is_root: self.identity.kind == Some(b"\"Root\""),
            is_read_only: self.read_only == Some(b"true"),
        }
    }
}

impl<'a> Identity<'a> {
    fn of(raw: &'a [u8]) -> Self {
        let mut identity = Self::default();
        if raw.first() != Some(&b'{') {
            return identity;
        }
        for Member { key, value } in members(raw) {
            let place = match key {
                b"\"type\"" => &mut identity.kind,
                b"\"arn\"" => &mut identity.arn,
                b"\"principalId\"" => &mut identity.principal,
                b"\"userName\"" => &mut identity.user_name,
                b"\"sessionContext\"" => &mut identity.session,
                _ => continue,
            };
            if value != b"null" && value != b"\"\"" {
                *place = Some(value);
            }
        }
        identity
    }

    /// The name of the role or user that issued the session.
    fn session_name(&self) -> Option<&'a [u8]> {
        let issuer = member(self.session?, b"\"sessionIssuer\"")?;
        member(issuer, b"\"userName\"").filter(|name| *name != b"null" && *name != b"\"\"")
    }
}

/// The member of `object` under a key, given in its quotes.
fn member<'a>(object: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let is_object = object.first() == Some(&b'{');
    members(object).take_while(|_| is_object).find(|member| member.key == key).map(|member| member.value)
}

/// The text between the quotes of a string.
fn content(token: &[u8]) -> &[u8] {
    match token {
        [b'"', content @ .., b'"'] => content,
        _ => b"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Severity;

    fn read(raw: &str) -> Read {
        RecordReader::default().read(&Bytes::copy_from_slice(raw.as_bytes()))
    }

    const RECORD: &str = r#"{"eventVersion":"1.11","userIdentity":{"type":"AssumedRole","principalId":"AROA:me","arn":"arn:aws:sts::111122223333:assumed-role/Admin/me","accountId":"111122223333","sessionContext":{"sessionIssuer":{"type":"Role","userName":"Admin"},"attributes":{"mfaAuthenticated":"false"}}},"eventTime":"2026-11-29T03:40:00Z","eventSource":"iam.amazonaws.com","eventName":"CreateAccessKey","awsRegion":"us-east-1","sourceIPAddress":"192.0.2.7","userAgent":"aws-cli","requestParameters":{"userName":"x","eventName":"Decoy"},"responseElements":null,"requestID":"r","eventID":"6a1e","readOnly":false,"eventType":"AwsApiCall","managementEvent":true,"recipientAccountId":"111122223333","eventCategory":"Management"}"#;

    #[test]
    fn the_fields_of_a_record_are_read_in_place() {
        let Read { event, .. } = read(RECORD);
        for (field, expected) in [
            (Field::Id, Some("6a1e")),
            (Field::Action, Some("CreateAccessKey")),
            (Field::Service, Some("iam.amazonaws.com")),
            (Field::Category, Some("Management")),
            (Field::Outcome, Some("success")),
            (Field::Details, None),
            (Field::ActorId, Some("arn:aws:sts::111122223333:assumed-role/Admin/me")),
            (Field::ActorName, Some("Admin")),
            (Field::ClientAddress, Some("192.0.2.7")),
        ] {
            assert_eq!(event.text(field).as_deref(), expected, "{field:?}");
        }
        assert_eq!(event.time(), Some("2026-11-29T03:40:00Z".parse().unwrap()));
        assert_eq!(event.severity(), Severity::Warn);
        assert_eq!(&event.raw()[..], RECORD.as_bytes());
    }

    #[test]
    fn a_service_is_no_client_address_and_an_error_code_is_a_failure() {
        let raw = r#"{"sourceIPAddress":"ec2.amazonaws.com","errorCode":"AccessDenied","errorMessage":"no","userIdentity":{"type":"AWSService","principalId":"p"}}"#;
        let Read { event, identity } = read(raw);
        assert_eq!(event.text(Field::ClientAddress), None);
        assert_eq!(event.text(Field::Outcome).as_deref(), Some("failure"));
        assert_eq!(event.text(Field::Details).as_deref(), Some("no"));
        assert_eq!(event.text(Field::ActorId).as_deref(), Some("p"));
        assert_eq!(identity, None);
        let failed = r#"{"eventName":"ConsoleLogin","errorMessage":"Failed authentication","responseElements":{"ConsoleLogin":"Failure"}}"#;
        assert_eq!(read(failed).event.text(Field::Outcome).as_deref(), Some("failure"));
        let worked = r#"{"eventName":"ConsoleLogin","responseElements":{"ConsoleLogin":"Success"}}"#;
        assert_eq!(read(worked).event.text(Field::Outcome).as_deref(), Some("success"));
    }

    #[test]
    fn identity_is_the_event_of_one_recipient() {
        let mut reader = RecordReader::default();
        let mut identity = |raw: &'static str| reader.read(&Bytes::from_static(raw.as_bytes())).identity.unwrap();
        let one = identity(r#"{"eventID":"a","recipientAccountId":"1","sharedEventID":"s"}"#);
        assert_eq!(one, identity(r#"{"x":2,"recipientAccountId":"1","eventID":"a"}"#));
        assert_ne!(one, identity(r#"{"eventID":"a","recipientAccountId":"2","sharedEventID":"s"}"#));
        assert_ne!(one, identity(r#"{"eventID":"b","recipientAccountId":"1","sharedEventID":"s"}"#));
        assert_ne!(identity(r#"{"eventId":"a","accountId":"1"}"#), identity(r#"{"eventId":"a","accountId":"2"}"#));
    }

    #[test]
    fn odd_times_are_read_and_none_costs_a_record() {
        for (time, expected) in [
            ("2021-04-21 08:45:46.062452", Some("2021-04-21T08:45:46.062452Z")),
            ("2021-04-21T08:45:46+02:00", Some("2021-04-21T06:45:46Z")),
            ("soon", None),
        ] {
            let Read { event, .. } = read(&format!("{{\"eventTime\":\"{time}\"}}"));
            assert_eq!(event.time().map(|time| time.to_string()).as_deref(), expected);
        }
        for raw in
            ["{}", r#"{"eventTime":7,"userIdentity":[1],"eventID":null}"#, r#"{"userIdentity":{"sessionContext":"x"}}"#]
        {
            assert_eq!(read(raw).identity, None);
        }
    }
}
