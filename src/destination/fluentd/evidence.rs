//! Whether a record that is refused alone is at fault, or the receiver refuses all: the decisions, apart from the sending.
//!
//! A receiver that refuses everything must not empty the log into the dead-letter file. So a refused record is a *suspect* until the receiver
//! has accepted another record after it. Where no other is at hand, a stand-in of our own is sent. The stand-in convicts one
//! suspect, and more only where the receiver has accepted a record of the same page.

/// A record that was refused alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspect {
    /// Which of the page's events it is.
    pub(super) index: usize,
    /// What the receiver answered.
    pub(super) reason: String,
}

/// What speaks for and against the records of one attempt.
#[derive(Debug)]
pub(super) struct Evidence {
    suspects: Vec<Suspect>,
    /// Whether the receiver has accepted a record of this page.
    has_accepted: bool,
    /// Whether a stand-in may convict a suspect although it has not: no other was convicted so since a record was accepted.
    may_convict_alone: bool,
}

impl Evidence {
    pub(super) fn new(has_accepted: bool, may_convict_alone: bool) -> Self {
        Self { suspects: Vec::new(), has_accepted, may_convict_alone }
    }

    /// A record was refused alone.
    pub(super) fn refused(&mut self, suspect: Suspect) {
        self.suspects.push(suspect);
    }

    /// Other records were accepted: gives the suspects, which are at fault themselves.
    pub(super) fn accepted(&mut self) -> Vec<Suspect> {
        self.has_accepted = true;
        std::mem::take(&mut self.suspects)
    }

    /// The suspect that a stand-in is to be sent for. `is_last`: no other record follows.
    pub(super) fn wants_stand_in(&self, is_last: bool) -> Option<&Suspect> {
        if self.suspects.len() > 1 || is_last { self.suspects.last() } else { None }
    }

    /// A stand-in was accepted: gives the suspects that are at fault themselves; none where that is not enough.
    pub(super) fn stand_in_accepted(&mut self) -> Vec<Suspect> {
        let is_enough = self.has_accepted || (self.may_convict_alone && self.suspects.len() == 1);
        if is_enough { std::mem::take(&mut self.suspects) } else { Vec::new() }
    }

    /// Whether nothing speaks against the receiver.
    pub(super) fn is_clear(&self) -> bool {
        self.suspects.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspect(index: usize) -> Suspect {
        Suspect { index, reason: String::new() }
    }

    #[test]
    fn a_record_that_is_accepted_convicts_those_refused_before() {
        let mut evidence = Evidence::new(false, false);
        evidence.refused(suspect(3));
        assert_eq!(evidence.wants_stand_in(false), None);
        assert_eq!(evidence.accepted(), [suspect(3)]);
        assert!(evidence.is_clear());
    }

    #[test]
    fn at_the_end_of_a_page_a_stand_in_convicts_if_the_page_had_accepted_records() {
        let mut evidence = Evidence::new(false, false);
        assert_eq!(evidence.accepted(), []);
        evidence.refused(suspect(8));
        evidence.refused(suspect(9));
        assert_eq!(evidence.wants_stand_in(false), Some(&suspect(9)));
        assert_eq!(evidence.stand_in_accepted(), [suspect(8), suspect(9)]);
    }

    #[test]
    fn a_stand_in_alone_convicts_one_record_and_never_a_second() {
        let mut alone = Evidence::new(false, true);
        alone.refused(suspect(0));
        assert_eq!(alone.wants_stand_in(true), Some(&suspect(0)));
        assert_eq!(alone.stand_in_accepted(), [suspect(0)]);

        let mut two = Evidence::new(false, true);
        two.refused(suspect(0));
        two.refused(suspect(1));
        assert_eq!(two.stand_in_accepted(), []);
        assert!(!two.is_clear());

        let mut another = Evidence::new(false, false);
        another.refused(suspect(0));
        assert_eq!(another.stand_in_accepted(), []);
    }
}
