//! The destinations of one call by number and by name.

use std::collections::HashMap;

/// Names, numbered in the order in which they came up. Buffers are kept from call to call.
#[derive(Default)]
pub(super) struct Names {
    numbers: HashMap<String, u16>,
    /// The names one after the other, and where each ends.
    text: String,
    ends: Vec<usize>,
}

impl Names {
    pub(super) fn clear(&mut self) {
        self.numbers.clear();
        self.text.clear();
        self.ends.clear();
    }

    /// The number of `name`, a new one if need be. A call has fewer names than 16 bits count.
    pub(super) fn number_of(&mut self, name: &str) -> u16 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.ends.len() as u16;
        self.numbers.insert(name.to_owned(), number);
        self.text.push_str(name);
        self.ends.push(self.text.len());
        number
    }

    pub(super) fn name(&self, number: u16) -> &str {
        let number = usize::from(number);
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[number]]
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// All names by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.ends.len() as u16).map(|number| self.name(number))
    }
}
