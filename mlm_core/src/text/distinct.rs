//! Takes a value, gives a key that stands for it where equal ones are looked for among millions.

use twox_hash::XxHash3_128;

/// A hash of 128 bits, in place of all that the value holds: the same on every machine.
pub(crate) fn key(value: &[u8], seed: u64) -> u128 {
    XxHash3_128::oneshot_with_seed(seed, value)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn other_values_have_other_keys_and_equal_ones_the_same_everywhere() {
        // Of xxhash 0.8.3 in C.
        assert_eq!(key(b"a fox", 0), 142895007981670782147348696135814058340);
        let keys: HashSet<u128> = (0..100_000_u32).map(|nth| key(&nth.to_le_bytes(), 0)).collect();
        assert_eq!(keys.len(), 100_000);
        assert_ne!(key(b"a fox", 0), key(b"a fox", 1));
    }
}
