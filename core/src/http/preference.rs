//! What whoever asks would like best: `Accept` and `Accept-Encoding`, as RFC 9110 reads them.

use axum::http::HeaderValue;

/// How metrics are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// Prometheus' text, version 0.0.4.
    Text,
    /// OpenMetrics, version 1.0.
    OpenMetrics,
}

impl Form {
    /// As it is named to whoever reads it.
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// How something is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Packing {
    Brotli,
    Gzip,
}

/// Weights are thousandths.
const WHOLE: u16 = 1000;

/// The form of metrics that is liked best; the text where there is a tie, or nothing to go by.
pub(super) fn form<'h>(accept: impl Iterator<Item = &'h HeaderValue>) -> Form {
    let (mut text, mut open) = (0, 0);
    for item in items(accept) {
        let is = |name: &str| item.name.eq_ignore_ascii_case(name);
        let is_version = |version: &str| item.version.is_none_or(|wanted| wanted.trim_matches('"') == version);
        if is("application/openmetrics-text") && (is_version("1.0.0") || is_version("1.0")) {
            open = open.max(item.weight);
        } else if is("text/plain") && is_version("0.0.4") {
            text = text.max(item.weight);
        }
    }
    if open > text { Form::OpenMetrics } else { Form::Text }
}

/// Whether something may be sent in this packing.
pub(super) fn takes<'h>(accept: impl Iterator<Item = &'h HeaderValue>, packing: Packing) -> bool {
    let name = match packing {
        Packing::Brotli => "br",
        Packing::Gzip => "gzip",
    };
    let (mut named, mut any) = (None, None);
    for item in items(accept) {
        if item.name.eq_ignore_ascii_case(name) {
            named = Some(item.weight);
        } else if item.name == "*" {
            any = Some(item.weight);
        }
    }
    named.or(any).is_some_and(|weight| weight > 0)
}

/// One of the things that are accepted.
struct Item<'h> {
    name: &'h str,
    version: Option<&'h str>,
    weight: u16,
}

fn items<'h>(values: impl Iterator<Item = &'h HeaderValue>) -> impl Iterator<Item = Item<'h>> {
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(|text| {
        let mut parts = text.split(';').map(str::trim);
        let mut item = Item { name: parts.next().unwrap_or_default(), version: None, weight: WHOLE };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            if key.trim().eq_ignore_ascii_case("q") {
                item.weight = weight(value.trim());
            } else if key.trim().eq_ignore_ascii_case("version") {
                item.version = Some(value.trim());
            }
        }
        item
    })
}

/// `0.5` in thousandths; what is no number weighs nothing.
fn weight(text: &str) -> u16 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = part.bytes().chain(*b"000").take(3);
    let is_number = digits.clone().all(|digit| digit.is_ascii_digit());
    let thousandths = is_number.then(|| digits.fold(0_u16, |sum, digit| sum * 10 + u16::from(digit - b'0')));
    match (whole, thousandths) {
        ("0" | "", Some(part)) => part,
        ("1", Some(_)) => WHOLE,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(accept: &'static str) -> Form {
        form([HeaderValue::from_static(accept)].iter())
    }

    #[test]
    fn the_form_with_the_greatest_weight_is_chosen() {
        for accept in [
            "",
            "*/*",
            "text/html, */*;q=0.8",
            "text/plain",
            "text/plain;version=0.0.4;q=0.9, application/openmetrics-text;version=1.0.0;q=0.9",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=nonsense",
        ] {
            assert_eq!(chosen(accept), Form::Text, "{accept}");
        }
        for accept in [
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; Version=1.0.0; Q=0.001",
            // what Prometheus sends
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
        ] {
            assert_eq!(chosen(accept), Form::OpenMetrics, "{accept}");
        }
        assert_eq!(form([].iter()), Form::Text);
    }

    #[test]
    fn nothing_is_compressed_for_who_did_not_ask() {
        let takes = |accept: &'static str, packing| takes([HeaderValue::from_static(accept)].iter(), packing);
        for (accept, gzip, brotli) in [
            ("", false, false),
            ("gzip", true, false),
            ("GZIP;q=1.0, br;q=0", true, false),
            ("gzip, deflate, br, zstd", true, true),
            ("*", true, true),
            ("*;q=0, br", false, true),
            ("identity", false, false),
        ] {
            assert_eq!((takes(accept, Packing::Gzip), takes(accept, Packing::Brotli)), (gzip, brotli), "{accept}");
        }
    }
}
