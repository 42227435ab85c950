//! Trees as people read them.

use std::fmt;

/// A line with lines below it.
#[derive(Debug)]
pub(crate) struct Tree {
    label: String,
    below: Vec<Tree>,
}

impl Tree {
    pub(crate) const fn new(label: String) -> Self {
        Self { label, below: Vec::new() }
    }

    pub(crate) fn push(&mut self, tree: Self) {
        self.below.push(tree);
    }

    pub(crate) fn leaf(&mut self, label: String) {
        self.push(Self::new(label));
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.below.is_empty()
    }

    fn draw(&self, f: &mut fmt::Formatter<'_>, margin: &str) -> fmt::Result {
        for (number, tree) in self.below.iter().enumerate() {
            let (branch, rest) = if number + 1 == self.below.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            writeln!(f, "{margin}{branch}{}", tree.label)?;
            tree.draw(f, &format!("{margin}{rest}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.label)?;
        self.draw(f, "")
    }
}
