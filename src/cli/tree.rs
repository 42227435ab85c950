//! Trees as text.

use termtree::{GlyphPalette, Tree};

const GLYPHS: GlyphPalette = {
    let mut glyphs = GlyphPalette::new();
    glyphs.item_indent = "─ ";
    glyphs.skip_indent = "  ";
    glyphs
};

/// A line, and the lines below it.
pub(crate) type TextTree = Tree<String>;

/// A tree of one line.
pub(crate) fn text_tree(label: impl Into<String>) -> TextTree {
    Tree::new(label.into()).with_glyphs(GLYPHS)
}
