//! Reads the few fields of an audit record that auditsync uses.
//!
//! No public page documents the exact keys of the audit API's records, so this module accepts many spellings.
//! `userEmail`, `user_email`, `user.email` and `{"user": {"email": …}}` are one. Among several candidates for a field,
//! the likeliest wins. Anything else stays in the record, which is delivered whole in any case.

use jiff::Timestamp;

use crate::event::{Field, Fields, scalar};
use crate::members::{Member, members};
use crate::source::times::time;

/// The greatest depth at which objects in a record are read.
const DEEPEST: usize = 2;

/// The longest folded key that can be one of ours.
const LONGEST_KEY: usize = 32;

/// The most keys that a reader remembers.
const MOST_KNOWN: usize = 64;

/// Reads records. One reader should read all records of a page, because it remembers keys.
#[derive(Debug, Default)]
pub struct Reader {
    known: Known,
}

impl Reader {
    /// Reads the time and the fields of a record, which must be valid JSON.
    pub fn read(&mut self, raw: &[u8]) -> (Option<Timestamp>, Fields) {
        let mut reading = Reading { base: raw.as_ptr() as usize, ..Reading::default() };
        if raw.first() == Some(&b'{') {
            reading.record(raw, &mut self.known);
        }
        (reading.time.map(|(_, time)| time), reading.fields)
    }
}

/// The meaning of a key, and its rank: 0 is the likeliest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Field(Field, u8),
    Time(u8),
}

/// The table of folded spellings: lower case, without `_`, `-`, `.` and spaces. A key of an inner object follows its
/// parent's.
fn meaning(folded: &[u8]) -> Option<Meaning> {
    use Field::{Action, ActorEmail, ActorId, ActorName, Category, ClientAddress, Details, Id, Outcome, Service};
    let (field, rank) = match folded {
        b"id" => (Id, 0),
        b"eventid" | b"recordid" | b"auditid" | b"auditrecordid" => (Id, 1),
        b"uuid" | b"guid" => (Id, 2),
        b"action" => (Action, 0),
        b"actionname" | b"eventname" | b"operation" | b"activity" => (Action, 1),
        b"event" => (Action, 2),
        b"service" => (Service, 0),
        b"servicename" => (Service, 1),
        b"module" | b"component" | b"application" => (Service, 2),
        b"category" => (Category, 0),
        b"eventcategory" | b"actioncategory" => (Category, 1),
        b"status" => (Outcome, 0),
        b"outcome" | b"result" => (Outcome, 1),
        b"actionstatus" | b"eventstatus" | b"eventoutcome" => (Outcome, 2),
        b"details" => (Details, 0),
        b"detail" | b"description" => (Details, 1),
        b"message" | b"text" => (Details, 2),
        b"userid" => (ActorId, 0),
        b"actorid" | b"adminid" | b"principalid" | b"clientadminid" => (ActorId, 1),
        b"username" => (ActorName, 0),
        b"user" | b"login" | b"userlogin" | b"actorname" | b"adminname" => (ActorName, 1),
        b"actor" | b"admin" | b"requester" | b"initiator" | b"performedby" | b"principal" => (ActorName, 2),
        b"useremail" => (ActorEmail, 0),
        b"email" | b"actoremail" | b"adminemail" | b"usermail" => (ActorEmail, 1),
        b"clientip" | b"clientipaddress" => (ClientAddress, 0),
        b"ip" | b"ipaddress" | b"remoteip" | b"sourceip" | b"userip" => (ClientAddress, 1),
        b"remoteaddress" | b"remoteaddr" | b"clientaddress" | b"sourceaddress" | b"networkclientip" => {
            (ClientAddress, 2)
        }
        b"timestamp" => return Some(Meaning::Time(0)),
        b"created" | b"createdat" | b"creationtime" | b"creationdate" | b"createddate" | b"createdon"
        | b"datecreated" => {
            return Some(Meaning::Time(1));
        }
        b"time" | b"eventtime" | b"eventtimestamp" | b"occurred" | b"occurredat" | b"actiontime" => {
            return Some(Meaning::Time(2));
        }
        b"date" | b"datetime" | b"eventdate" | b"actiondate" | b"logdate" => return Some(Meaning::Time(3)),
        _ => return None,
    };
    Some(Meaning::Field(field, rank))
}

#[derive(Default)]
struct Reading {
    base: usize,
    time: Option<(u8, Timestamp)>,
    /// The rank of the candidate taken for each field.
    ranks: [Option<u8>; Field::COUNT],
    fields: Fields,
}

impl Reading {
    /// Reads the members of a record.
    fn record(&mut self, raw: &[u8], known: &mut Known) {
        for Member { key, value } in members(raw) {
            if value.first() == Some(&b'{') {
                self.object(value, Key::default().join(key), 1);
            } else {
                self.scalar(value, known.meaning(key), 0);
            }
        }
    }

    /// Reads the members of the object `raw` under `parent`.
    fn object(&mut self, raw: &[u8], parent: Key, depth: usize) {
        if parent.foreign || depth > DEEPEST {
            return;
        }
        for Member { key, value } in members(raw) {
            let key = parent.join(key);
            if value.first() == Some(&b'{') {
                self.object(value, key, depth + 1);
            } else {
                self.scalar(value, key.meaning(), depth);
            }
        }
    }

    fn scalar(&mut self, token: &[u8], meaning: Option<Meaning>, depth: usize) {
        match (token.first(), meaning) {
            (Some(b'[' | b'n'), _) | (_, None) => {}
            (_, Some(Meaning::Time(rank))) => {
                if self.time.is_none_or(|(best, _)| rank < best)
                    && let Some(time) = scalar(token).and_then(|text| time(&text))
                {
                    self.time = Some((rank, time));
                }
            }
            (_, Some(Meaning::Field(field, rank))) if token != b"\"\"" => {
                // A field within an object is a less likely candidate than the same field at the top.
                let rank = rank.saturating_mul(4).saturating_add(u8::try_from(depth).unwrap_or(u8::MAX));
                let best = &mut self.ranks[field as usize];
                if best.is_some_and(|best| best <= rank) {
                    return;
                }
                *best = Some(rank);
                // The token is a slice of the record, so the difference of their addresses is its offset.
                let start = token.as_ptr() as usize - self.base;
                self.fields.set(field, start..start + token.len());
            }
            _ => {}
        }
    }
}

/// The keys seen so far, with their meanings. Records share a few keys, and comparing a key costs less than folding it.
#[derive(Debug, Default)]
struct Known {
    /// The keys in their quotes, in the order of the first record that had them.
    keys: Vec<(Box<[u8]>, Option<Meaning>)>,
    /// The index after the last match, where the next key usually is.
    next: usize,
}

impl Known {
    /// The meaning of a top-level key, given in its quotes.
    fn meaning(&mut self, quoted: &[u8]) -> Option<Meaning> {
        let (before, behind) = self.keys.split_at(self.next.min(self.keys.len()));
        let is_it = |(key, _): &(Box<[u8]>, Option<Meaning>)| **key == *quoted;
        let met = behind.iter().position(is_it).map(|at| before.len() + at).or_else(|| before.iter().position(is_it));
        if let Some(at) = met {
            self.next = at + 1;
            return self.keys[at].1;
        }
        let meaning = Key::default().join(quoted).meaning();
        if self.keys.len() < MOST_KNOWN && quoted.len() <= LONGEST_KEY {
            self.keys.push((quoted.into(), meaning));
            self.next = self.keys.len();
        }
        meaning
    }
}

/// How a byte of a key is folded.
#[derive(Clone, Copy)]
enum Fold {
    To(u8),
    /// The byte is dropped.
    Left,
    /// No key of ours has this byte.
    Foreign,
}

/// The folding of each byte, so that a key costs one table look-up per byte.
const FOLDED: [Fold; 256] = {
    let mut table = [Fold::Foreign; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = match byte {
            b'_' | b'-' | b'.' | b' ' => Fold::Left,
            _ => Fold::To(byte.to_ascii_lowercase()),
        };
        byte += 1;
    }
    table
};

/// A folded key, with its parents' keys before it. A key that is too long, or not ASCII, is not one of ours.
#[derive(Debug, Clone, Copy, Default)]
struct Key {
    folded: [u8; LONGEST_KEY],
    len: usize,
    foreign: bool,
}

impl Key {
    /// The key of a member of this key's object; `quoted` has its quotes.
    fn join(self, quoted: &[u8]) -> Self {
        match quoted {
            [b'"', key @ .., b'"'] if !key.contains(&b'\\') => self.push(key),
            _ => match scalar(quoted) {
                Some(key) => self.push(key.as_bytes()),
                None => Self { foreign: true, ..self },
            },
        }
    }

    fn push(mut self, key: &[u8]) -> Self {
        for byte in key {
            match FOLDED[usize::from(*byte)] {
                Fold::Left => {}
                Fold::To(folded) if self.len < LONGEST_KEY => {
                    self.folded[self.len] = folded;
                    self.len += 1;
                }
                Fold::To(_) | Fold::Foreign => {
                    self.foreign = true;
                    break;
                }
            }
        }
        self
    }

    fn meaning(&self) -> Option<Meaning> {
        if self.foreign { None } else { meaning(self.folded.get(..self.len)?) }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::Event;

    fn event(raw: &str) -> Event {
        let raw = Bytes::copy_from_slice(raw.as_bytes());
        let (time, fields) = Reader::default().read(&raw);
        Event::new(raw, time, fields)
    }

    #[test]
    fn spellings_do_not_matter() {
        for raw in [
            r#"{"userEmail":"a@b"}"#,
            r#"{"user_email":"a@b"}"#,
            r#"{"user.email":"a@b"}"#,
            r#"{"User-Email":"a@b"}"#,
            r#"{"user":{"email":"a@b"}}"#,
            r#"{"user":{"id":7,"email":"a@b"},"details":"x"}"#,
            r#"{"\ud800":{"x":1},"user":{"email":"a@b"}}"#,
        ] {
            assert_eq!(event(raw).text(Field::ActorEmail).as_deref(), Some("a@b"), "{raw}");
        }
    }

    #[test]
    fn a_record_is_read_alike_whatever_was_read_before() {
        let many = (0..100).map(|n| format!(r#""k{n}":{n}"#)).collect::<Vec<_>>().join(",");
        let records = [
            r#"{"id":1,"action":"a"}"#.to_owned(),
            r#"{"action":"b","id":2,"x":3,"status":"s"}"#.to_owned(),
            r#"{"id":{"action":"c"},"user":{"id":7}}"#.to_owned(),
            format!(r#"{{{many},"id":4,"client_ip":"192.0.2.1"}}"#),
            r#"{"client_ip":"192.0.2.1","":5,"\u0069d":6,"i":7}"#.to_owned(),
        ];
        let mut reader = Reader::default();
        for raw in records.iter().chain(records.iter().rev()) {
            assert_eq!(reader.read(raw.as_bytes()), Reader::default().read(raw.as_bytes()), "{raw}");
        }
    }

    #[test]
    fn the_likeliest_of_several_candidates_wins() {
        let event =
            event(r#"{"customer":{"id":3},"result":"x","status":"SUCCESS","uuid":"u","object":{"id":5},"id":12}"#);
        assert_eq!(event.text(Field::Id).as_deref(), Some("12"));
        assert_eq!(event.text(Field::Outcome).as_deref(), Some("SUCCESS"));
        let empty = self::event(r#"{"status":"","outcome":"FAILED","action":null}"#);
        assert_eq!(empty.text(Field::Outcome).as_deref(), Some("FAILED"));
        assert_eq!(empty.text(Field::Action), None);
    }

    #[test]
    fn a_time_is_found_beside_one_that_is_not_understood() {
        let event = event(r#"{"date":"2026-03-01T12:00:00Z","timestamp":"soon","created":1772366401}"#);
        assert_eq!(event.time().unwrap().to_string(), "2026-03-01T12:00:01Z");
    }

    #[test]
    fn what_is_not_understood_does_no_harm() {
        for raw in ["17", "null", "\"x\"", "[]", "{}", r#"{"id":{"id":{"id":{"id":1}}}}"#, r#"{"id":[1]}"#] {
            let event = event(raw);
            assert_eq!(event.text(Field::Id), None, "{raw}");
            assert_eq!(event.time(), None, "{raw}");
        }
    }
}
