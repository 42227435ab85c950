//! Limits and options of the YAML parser.

/// Options that bound how far a document can expand. The size of files is bounded where they are opened.
pub(crate) fn yaml_options() -> serde_saphyr::Options {
    let mut budget = serde_saphyr::Budget::default();
    budget.max_aliases = 100;
    budget.max_anchors = 100;
    budget.max_depth = 64;
    let mut options = serde_saphyr::Options::default();
    options.budget = Some(budget);
    // `y` and `no` are strings, as in YAML 1.2
    options.strict_booleans = true;
    options
}
