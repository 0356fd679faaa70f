//! A value that threads change one after the other, in a given order.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A value that threads change one after the other, in the order of their turns, which are counted from 0.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    value: T,
    next: usize,
    is_stopped: bool,
}

impl<T> Turns<T> {
    pub(crate) fn new(value: T) -> Self {
        let state = State { value, next: 0, is_stopped: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits until all earlier turns have been taken, and then does the work. Returns false without the work if the turns are
    /// stopped.
    pub(crate) fn take(&self, turn: usize, work: impl FnOnce(&mut T)) -> bool {
        let waits = |state: &mut State<T>| state.next != turn && !state.is_stopped;
        let waited = self.changed.wait_while(self.lock(), waits);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.is_stopped {
            return false;
        }
        work(&mut state.value);
        state.next += 1;
        self.changed.notify_all();
        true
    }

    /// Ends all waits.
    pub(crate) fn stop(&self) {
        self.lock().is_stopped = true;
        self.changed.notify_all();
    }

    pub(crate) fn into_inner(self) -> T {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).value
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_taken_in_order_and_a_stop_ends_waits() {
        let turns = Turns::new(Vec::new());
        std::thread::scope(|scope| {
            for turn in (0..20).rev() {
                let turns = &turns;
                scope.spawn(move || assert!(turns.take(turn, |taken| taken.push(turn))));
            }
        });
        std::thread::scope(|scope| {
            let late = scope.spawn(|| turns.take(21, |taken| taken.push(21)));
            turns.stop();
            assert!(!late.join().unwrap());
        });
        assert_eq!(turns.into_inner(), Vec::from_iter(0..20));
    }
}
