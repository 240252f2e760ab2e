//! Takes a value, gives a key that stands for it where equal ones are looked for among millions.

use std::hash::Hash;

use ahash::RandomState;

/// Two hashes of the value: 128 bits, in place of all that it holds.
pub(crate) fn key(value: &(impl Hash + ?Sized)) -> [u64; 2] {
    [1, 2].map(|seed| RandomState::with_seeds(seed, 0, 0, 0).hash_one(value))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn equal_values_have_one_key_and_others_another() {
        assert_eq!(key("a fox"), key(&String::from("a fox")));
        assert_eq!(key(&vec![2, 7, 3]), key(&[2, 7, 3][..]));
        let keys: HashSet<[u64; 2]> = (0..100_000_u32).map(|nth| key(&[nth, 3])).collect();
        assert_eq!(keys.len(), 100_000);
        let [first, second] = key("a fox");
        assert_ne!(first, second);
    }
}
