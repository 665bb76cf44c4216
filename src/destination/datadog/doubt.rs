//! Decides whether a failure is due to an entry or to the intake. [`super::examine`] does the sending.
//!
//! A batch that fails while others are accepted is *in doubt*. It is halved down to the entry at fault. That entry is
//! then sent repeatedly, in turn with notices of our own. It is reduced to text, and at last dead-lettered, when chance
//! no longer explains why the entry always fails and the notices do not. An outage fails both, so it convicts no entry.

use std::ops::Range;

use super::entry::Form;

/// The number of failures before a range of several entries is halved. Otherwise an intake that fails half of all
/// requests by chance would take every batch apart.
const FAILURES_BEFORE_HALVING: u32 = 3;

/// The least number of failures of an entry in one form before that form is given up, whatever the odds.
const FAILURES_IN_A_FORM: u32 = 3;

/// An entry is sent as text when chance explains its failures with at most this probability. Six failures between
/// notices that are all accepted reach it.
const REDUCED_BELOW: f64 = 1.0 / 900.0;

/// The same limit for a dead letter. Twelve failures between notices that are all accepted reach it.
const REFUSED_BELOW: f64 = 1e-6;

/// The ranges of entries that may have made their requests fail.
#[derive(Debug, Default)]
pub(super) struct Doubts(Vec<Doubt>);

/// A range in doubt: one entry, or several of which one may be at fault.
#[derive(Debug, Clone)]
pub(super) struct Doubt {
    pub(super) range: Range<usize>,
    pub(super) form: Form,
    /// The text of the last failure.
    pub(super) reason: String,
    /// Failures of the range. For a single entry, only those that an accepted notice followed.
    failures: u32,
    /// Failures of a single entry in its present form.
    in_this_form: u32,
    /// Whether a single entry failed, and no notice has been sent since.
    is_open: bool,
    /// Whether another request was accepted since the range came into doubt.
    others_accepted: bool,
    /// Notices accepted after failures of the single entry.
    notices_accepted: u32,
    /// Notices that failed after failures of the single entry.
    notices_failed: u32,
}

/// The next step for a single entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// Send it again.
    Open,
    /// Send it as text.
    Reduce,
    /// Make it a dead letter.
    Refuse,
}

impl Doubt {
    fn of(range: Range<usize>, form: Form, reason: String) -> Self {
        Self {
            range,
            form,
            reason,
            failures: 0,
            in_this_form: 0,
            is_open: false,
            others_accepted: false,
            notices_accepted: 0,
            notices_failed: 0,
        }
    }

    pub(super) fn is_single(&self) -> bool {
        self.range.len() == 1
    }

    /// How often it failed; for a single entry, while notices were accepted.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// The probability that an intake that fails at random fails at every try of the entry, and at this few of the
    /// notices. It is one tail of Fisher's exact test.
    fn chance(&self) -> f64 {
        let (accepted, failed) = (f64::from(self.notices_accepted), f64::from(self.notices_failed));
        (1..=self.failures).map(f64::from).map(|nth| (failed + nth) / (accepted + failed + nth)).product()
    }

    fn finding(&self) -> Finding {
        if !self.is_single() || self.in_this_form < FAILURES_IN_A_FORM {
            return Finding::Open;
        }
        match self.form {
            Form::Whole | Form::Cut if self.chance() <= REDUCED_BELOW => Finding::Reduce,
            Form::Text if self.chance() <= REFUSED_BELOW => Finding::Refuse,
            Form::Whole | Form::Cut | Form::Text => Finding::Open,
        }
    }
}

impl Doubts {
    /// All of them.
    pub(super) fn all(&self) -> &[Doubt] {
        &self.0
    }

    /// The ranges that may be sent. A single entry waits for the notice that follows its last failure.
    pub(super) fn to_try(&self) -> Vec<Range<usize>> {
        self.0.iter().filter(|doubt| !doubt.is_open).map(|doubt| doubt.range.clone()).collect()
    }

    /// The doubt about exactly this range.
    pub(super) fn about(&self, range: &Range<usize>) -> Option<&Doubt> {
        self.0.iter().find(|doubt| doubt.range == *range)
    }

    /// Notes that a request with `range` failed, perhaps because of an entry in it. Returns the ranges to send at once:
    /// itself, its halves, or none.
    pub(super) fn failed(&mut self, range: &Range<usize>, form: Form, reason: String) -> Vec<Range<usize>> {
        let at = self.0.iter().position(|doubt| doubt.range == *range).unwrap_or_else(|| {
            self.settled(range);
            self.0.push(Doubt::of(range.clone(), form, String::new()));
            self.0.len() - 1
        });
        let Some(doubt) = self.0.get_mut(at) else { return Vec::new() };
        doubt.reason = reason;
        if doubt.is_single() {
            doubt.is_open = true;
            return Vec::new();
        }
        doubt.failures = doubt.failures.saturating_add(1);
        if !doubt.others_accepted {
            return Vec::new();
        }
        if doubt.failures < FAILURES_BEFORE_HALVING {
            return vec![doubt.range.clone()];
        }
        let Doubt { range, form, reason, .. } = self.0.swap_remove(at);
        let middle = range.start + range.len() / 2;
        let halves = vec![range.start..middle, middle..range.end];
        self.0.extend(halves.iter().map(|half| Doubt::of(half.clone(), form, reason.clone())));
        halves
    }

    /// Removes the doubt about `range`, whose entries are settled.
    pub(super) fn settled(&mut self, range: &Range<usize>) {
        self.0.retain(|doubt| doubt.range.end <= range.start || range.end <= doubt.range.start);
    }

    /// Splits a doubted range at `end`, because one request could not hold all of it.
    pub(super) fn cut_at(&mut self, range: &Range<usize>, end: usize) {
        if let Some(doubt) = self.0.iter_mut().find(|doubt| doubt.range == *range)
            && (range.start + 1..range.end).contains(&end)
        {
            let rest = Doubt { range: end..range.end, ..doubt.clone() };
            doubt.range.end = end;
            self.0.push(rest);
        }
    }

    /// Notes that a request with other entries was accepted. That is enough to halve a range, but not to convict a
    /// single entry.
    pub(super) fn others_accepted(&mut self) {
        self.0.iter_mut().for_each(|doubt| doubt.others_accepted = true);
    }

    /// Notes that a notice was accepted, so the failures just before it count. Returns the entries to dead-letter.
    pub(super) fn notice_accepted(&mut self) -> Vec<Doubt> {
        self.others_accepted();
        let mut refused = Vec::new();
        for doubt in self.0.iter_mut().filter(|doubt| doubt.is_single()) {
            if !std::mem::take(&mut doubt.is_open) {
                continue;
            }
            doubt.notices_accepted += 1;
            doubt.failures += 1;
            doubt.in_this_form += 1;
            match doubt.finding() {
                Finding::Open => {}
                Finding::Reduce => (doubt.form, doubt.in_this_form) = (Form::Text, 0),
                Finding::Refuse => refused.push(doubt.clone()),
            }
        }
        refused
    }

    /// Notes that a notice failed, so the failures just before it do not count.
    pub(super) fn notice_failed(&mut self) {
        for doubt in &mut self.0 {
            if std::mem::take(&mut doubt.is_open) {
                doubt.notices_failed = doubt.notices_failed.saturating_add(1);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of ranges, of which there may be one")]
mod tests {
    use super::*;

    fn reason() -> String {
        "500".to_owned()
    }

    /// A single entry in doubt.
    fn single() -> Doubts {
        let mut doubts = Doubts::default();
        doubts.failed(&(0..1), Form::Whole, reason());
        doubts
    }

    #[test]
    fn an_entry_that_always_fails_among_notices_that_never_do_is_reduced_and_then_dead_lettered() {
        let mut doubts = single();
        for nth in 1..=12 {
            let rejected = doubts.notice_accepted();
            let form = if nth < 6 { Form::Whole } else { Form::Text };
            assert_eq!((doubts.0[0].form, rejected.len()), (form, usize::from(nth == 12)), "{nth}");
            doubts.failed(&(0..1), form, reason());
        }
    }

    #[test]
    fn without_a_notice_no_failure_counts() {
        let mut doubts = single();
        for _ in 0..1000 {
            doubts.others_accepted();
            assert!(doubts.failed(&(0..1), Form::Whole, reason()).is_empty());
            assert!(doubts.to_try().is_empty());
        }
        assert_eq!(doubts.0[0].failures, 0);
    }

    #[test]
    fn an_outage_convicts_nobody() {
        let mut doubts = single();
        for _ in 0..1000 {
            doubts.notice_failed();
            doubts.failed(&(0..1), Form::Whole, reason());
        }
        assert_eq!((doubts.0[0].failures, doubts.0[0].form), (0, Form::Whole));
    }

    #[test]
    fn a_range_is_halved_at_its_third_failure_and_only_when_others_are_accepted() {
        let mut doubts = Doubts::default();
        for _ in 0..9 {
            assert!(doubts.failed(&(0..5), Form::Whole, reason()).is_empty());
        }
        doubts.others_accepted();
        assert_eq!(doubts.failed(&(0..5), Form::Whole, reason()), [0..2, 2..5]);
        doubts.others_accepted();
        assert_eq!(doubts.failed(&(2..5), Form::Whole, reason()), [2..5]);
        assert_eq!(doubts.failed(&(2..5), Form::Whole, reason()), [2..5]);
        assert_eq!(doubts.failed(&(2..5), Form::Whole, reason()), [2..3, 3..5]);
        doubts.settled(&(0..2));
        doubts.settled(&(3..5));
        assert_eq!(doubts.to_try(), [2..3]);
    }

    #[test]
    fn what_one_request_cannot_hold_stays_in_doubt() {
        let mut doubts = Doubts::default();
        doubts.failed(&(2..8), Form::Whole, reason());
        doubts.cut_at(&(2..8), 5);
        assert_eq!(doubts.to_try(), [2..5, 5..8]);
        doubts.cut_at(&(2..5), 5);
        assert_eq!(doubts.to_try(), [2..5, 5..8]);
    }

    /// The probability that an intake that fails at random at this rate makes a single entry end so. The sum is exact:
    /// each pair of the entry and the notice after it either continues the doubt (weighted by both outcomes) or ends
    /// it.
    fn ends_in(finding: Finding, rate: f64) -> f64 {
        const MOST: usize = 150;
        // By failures and by notices that failed.
        let mut weights = vec![vec![0.0; MOST]; MOST];
        weights[0][0] = 1.0;
        let mut ended = 0.0;
        for failures in 0..MOST - 1 {
            for failed in 0..MOST - 1 {
                let weight = weights[failures][failed];
                weights[failures][failed + 1] += weight * rate * rate;
                let count = |number: usize| u32::try_from(number).unwrap();
                let (form, in_this_form) = if finding == Finding::Reduce { (Form::Whole, 3) } else { (Form::Text, 3) };
                let tried = Doubt {
                    form,
                    in_this_form,
                    failures: count(failures + 1),
                    notices_accepted: count(failures + 1),
                    notices_failed: count(failed),
                    ..Doubt::of(0..1, form, reason())
                };
                let weight = weight * rate * (1.0 - rate);
                if tried.finding() == finding { ended += weight } else { weights[failures + 1][failed] += weight }
            }
        }
        ended
    }

    #[test]
    fn chance_dead_letters_less_than_one_doubted_entry_in_a_million() {
        for percent in 1..100 {
            let rate = f64::from(percent) / 100.0;
            let (reduced, rejected) = (ends_in(Finding::Reduce, rate), ends_in(Finding::Refuse, rate));
            assert!(rejected < 1e-6, "{percent} %: {rejected:e}");
            assert!(reduced < 1.0 / 900.0, "{percent} %: {reduced:e}");
        }
    }
}
