//! Counts profiles by domain from index entries in their order.
//!
//! In that order a domain is followed by those below it, so only the current domain and its ancestors are kept.

use super::keys::Counters;

const LABEL_END: u8 = 0x00;

/// The counters of the current domain and its ancestors.
#[derive(Default)]
pub struct DomainCounts {
    current: Vec<u8>,
    /// From the top-level domain down: where each domain's key ends in `current`, and its counters so far.
    path: Vec<(usize, Counters)>,
}

/// A domain's key, and what was counted of it.
pub type Counted = (Vec<u8>, Counters);

impl DomainCounts {
    /// Counts an entry of a domain, and adds to `left` the domains that have no more entries.
    pub fn add(&mut self, domain: &[u8], left: &mut Vec<Counted>) {
        if domain != self.current {
            let shared = self.current.iter().zip(domain).take_while(|(current, new)| current == new).count();
            while self.path.last().is_some_and(|(end, _)| *end > shared) {
                self.leave(left);
            }
            let known = self.path.last().map_or(0, |(end, _)| *end);
            self.current.truncate(known);
            self.current.extend_from_slice(&domain[known..]);
            let ends = (known..domain.len()).filter(|&at| domain[at] == LABEL_END);
            self.path.extend(ends.map(|at| (at + 1, Counters::default())));
        }
        if let Some((_, counters)) = self.path.last_mut() {
            counters.own += 1;
            counters.subtree += 1;
        }
    }

    /// The domains that are left when there are no more entries.
    pub fn finish(mut self, left: &mut Vec<Counted>) {
        while !self.path.is_empty() {
            self.leave(left);
        }
    }

    /// Closes the deepest domain of the path.
    fn leave(&mut self, left: &mut Vec<Counted>) {
        let Some((end, counters)) = self.path.pop() else { return };
        left.push((self.current[..end].to_vec(), counters));
        if let Some((_, parent)) = self.path.last_mut() {
            parent.subtree += counters.subtree;
        }
    }
}
