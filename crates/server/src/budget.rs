//! Bounds on what is accepted and not yet answered: bytes of bodies, tokens of texts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A limit that requests share. What does not fit is refused at once; nobody waits for room.
#[derive(Debug, Clone)]
pub struct Budget {
    used: Arc<AtomicUsize>,
    limit: usize,
}

impl Budget {
    /// Room for `limit` units.
    pub fn new(limit: usize) -> Self {
        Self {
            used: Arc::default(),
            limit,
        }
    }

    /// Units in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// An empty share, to grow.
    pub fn reservation(&self) -> Reservation {
        Reservation {
            budget: self.clone(),
            amount: 0,
        }
    }
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A share of a budget, given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    amount: usize,
}

impl Reservation {
    /// Takes `amount` units more.
    ///
    /// # Errors
    /// [`Full`] when they are not there; the share stays as it was.
    pub fn grow(&mut self, amount: usize) -> Result<(), Full> {
        let limit = self.budget.limit;
        let fits = |used: usize| used.checked_add(amount).filter(|&used| used <= limit);
        self.budget
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map_err(|_| Full)?;
        self.amount += amount;
        Ok(())
    }

    /// Units of this share.
    pub fn amount(&self) -> usize {
        self.amount
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_what_is_dropped_comes_back() {
        let budget = Budget::new(10);
        let mut first = budget.reservation();
        assert_eq!(first.grow(8), Ok(()));
        let mut second = budget.reservation();
        assert_eq!(second.grow(3), Err(Full));
        assert_eq!(second.grow(usize::MAX), Err(Full));
        assert_eq!(second.grow(2), Ok(()));
        drop(first);
        assert_eq!(budget.used(), 2);
    }
}
