//! Functions on URLs, by the names of Kubernetes' CEL.

use super::function::{ConditionFunction, function};
use super::values::{self, Bool, FunctionResult, MAX_TEXT, Map, Text, Url, failure};
use cel::common::types::{CelList, CelMap, CelMapKey, CelString};
use cel::common::value::Val;
use std::collections::HashMap;

pub(super) const FUNCTIONS: &[ConditionFunction] = &[
    function!("url" = fallible url(Text) -> Url, "Parses an absolute URL."),
    function!("isURL" = is_url(Text) -> Bool, "Whether a string is an absolute URL."),
    function!(on "getScheme" = get_scheme(Url) -> Text, "Scheme, such as `https`."),
    function!(on "getHost" = get_host(Url) -> Text, "Host, with the port where the URL has one."),
    function!(on "getHostname" = get_hostname(Url) -> Text, "Host without port and without the brackets of IPv6."),
    function!(on "getPort" = get_port(Url) -> Text, "Port as a string; empty if the URL has none."),
    function!(on "getEscapedPath" = get_escaped_path(Url) -> Text, "Path, percent-encoded."),
    function!(on "getQuery" = get_query(Url) -> Map, "The parameters of the query, each with the list of its values."),
];

fn parse_url(text: &str) -> Option<url::Url> {
    if text.len() <= MAX_TEXT { url::Url::parse(text).ok() } else { None }
}

fn url(text: &Text<'_>) -> FunctionResult<Url> {
    parse_url(text.inner()).map_or_else(|| failure("url", "that is no absolute URL"), |url| Ok(Url(url)))
}

fn is_url(text: &Text<'_>) -> Bool {
    parse_url(text.inner()).is_some().into()
}

fn get_scheme(url: &Url) -> Text<'static> {
    url.0.scheme().to_owned().into()
}

fn get_host(url: &Url) -> Text<'static> {
    let host = url.0.host_str().unwrap_or_default();
    url.0.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")).into()
}

fn get_hostname(url: &Url) -> Text<'static> {
    url.0.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned().into()
}

fn get_port(url: &Url) -> Text<'static> {
    url.0.port().map(|port| port.to_string()).unwrap_or_default().into()
}

fn get_escaped_path(url: &Url) -> Text<'static> {
    url.0.path().to_owned().into()
}

fn get_query(url: &Url) -> Map<'static> {
    let mut query: HashMap<String, Vec<Box<dyn Val>>> = HashMap::new();
    for (name, value) in url.0.query_pairs() {
        query.entry(name.into_owned()).or_default().push(Box::new(CelString::from(value.into_owned())));
    }
    let entry = |(name, values): (String, Vec<Box<dyn Val>>)| {
        (CelMapKey::from(name), Box::new(CelList::from(values)) as Box<dyn Val>)
    };
    CelMap::from(query.into_iter().map(entry).collect::<HashMap<_, _>>())
}
