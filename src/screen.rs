//! Selects a source's events with filters, and redacts values before anything leaves the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::{Noted, Preset, Reader, Scope, SecretVariable, Spec, Variable};
use crate::event::Event;
use crate::secret::Secret;
use crate::variable_name::VariableName;
use filter::Filter;
use redaction::{Pointer, Redaction};

pub mod filter;
pub mod redaction;

const INCLUDE: Variable<Filter> = Variable::new(
    Scope::Shared,
    "AUDITSYNC_INCLUDE",
    Preset::Nothing,
    |text, _| text.parse::<Filter>().map_err(|invalid| invalid.to_string()),
    "Deliver only events that match this filter, such as action=certificate.*,outcome!=success.",
);

const EXCLUDE: Variable<Filter> = Variable::new(
    Scope::Shared,
    "AUDITSYNC_EXCLUDE",
    Preset::Nothing,
    |text, _| text.parse::<Filter>().map_err(|invalid| invalid.to_string()),
    "Do not deliver events that match this filter.",
);

const REDACT: Variable<Vec<Pointer>> = Variable::new(
    Scope::Shared,
    "AUDITSYNC_REDACT",
    Preset::Nothing,
    |text, _| text.split(',').map(|pointer| Pointer::parse(pointer.trim())).collect(),
    "JSON pointers, separated by commas, to the values of a record that a salted hash replaces.",
);

const SALT: SecretVariable = SecretVariable::checked(
    Scope::Shared,
    "AUDITSYNC_REDACT_SALT",
    Preset::Nothing,
    |salt| if salt.len() < 16 { Err("must have at least 16 characters".to_owned()) } else { Ok(()) },
    "Salt of these hashes, at least 16 characters. Keep it: another salt gives the same values other hashes.",
)
.renewed("auditsync re-reads it on SIGHUP.");

/// Every variable of filters and redaction, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[&INCLUDE.spec, &EXCLUDE.spec, &REDACT.spec, &SALT.spec];

/// The number of events after which an include filter is probably a mistake, if none of them passed.
const ENOUGH: usize = 1000;

/// The filters and the redaction of a pipeline.
#[derive(Debug, Clone, Default)]
pub struct Screen {
    /// The filter, and the variable that sets it.
    include: Option<(Filter, VariableName)>,
    exclude: Option<Filter>,
    redaction: Option<Redaction>,
    /// How many events were dropped before the first one that passed; [`ENOUGH`] from then on.
    barren: Arc<AtomicUsize>,
}

impl Screen {
    /// Returns the events of a page that pass the filters, with their values redacted.
    pub fn of(&self, mut events: Vec<Event>) -> Vec<Event> {
        if self.include.is_some() || self.exclude.is_some() {
            let before = events.len();
            events.retain(|event| self.passes(event));
            self.note(before, events.len());
        }
        match &self.redaction {
            Some(redaction) => events.into_iter().map(|event| redaction.of(event)).collect(),
            None => events,
        }
    }

    /// Warns once if none of the first events passes the include filter.
    fn note(&self, events: usize, passed: usize) {
        let dropped = self.barren.load(Ordering::Relaxed);
        let Some((_, variable)) = self.include.as_ref().filter(|_| dropped < ENOUGH) else { return };
        self.barren.store(if passed > 0 { ENOUGH } else { dropped.saturating_add(events) }, Ordering::Relaxed);
        if passed == 0 && dropped.saturating_add(events) >= ENOUGH {
            tracing::warn!(
                filtered = dropped.saturating_add(events),
                "{variable} has let no event through yet; correct it, unless such events are rare"
            );
        }
    }

    fn passes(&self, event: &Event) -> bool {
        self.include.as_ref().is_none_or(|(filter, _)| filter.holds(event))
            && !self.exclude.as_ref().is_some_and(|filter| filter.holds(event))
    }

    /// The salt of the hashes; none without redaction.
    pub(crate) fn secret(&self) -> Option<&Secret> {
        self.redaction.as_ref().map(Redaction::salt)
    }

    /// The redaction, if any.
    pub(crate) fn redaction(&self) -> Option<&Redaction> {
        self.redaction.as_ref()
    }
}

/// Reads the filters and the redaction.
pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Screen, Noted> {
    let (include, exclude) = (reader.find(&INCLUDE), reader.find(&EXCLUDE));
    let (pointers, salt) = (reader.find(&REDACT), reader.find_secret(&SALT));
    let redaction = match (pointers?, salt?) {
        (Some(pointers), Some(salt)) => Some(Redaction::new(pointers, salt)),
        (Some(pointers), None) => Some(Redaction::new(pointers, reader.get_secret(&SALT)?)),
        (None, _) => None,
    };
    let include = include?.map(|filter| (filter, reader.name(&INCLUDE.spec)));
    Ok(Screen { include, exclude: exclude?, redaction, barren: Arc::default() })
}
