//! The keys of `[http]`.

use super::{Section, key};

pub(crate) const HTTP: Section = Section {
    title: "[http]",
    name: "http",
    doc: "The HTTP endpoint: metrics, the API and the dashboard, only to be read. `docs/http.md` tells its routes and limits. An address \
          that other machines can reach needs `token_file` or `tls_client_ca`.",
    keys: &[
        key(
            "listen",
            "address",
            "",
            "Where it listens, as in `\"127.0.0.1:6480\"`. Without the key there is no endpoint.",
        ),
        key(
            "token_file",
            "path",
            "",
            "A file that only its owner may read and that holds a token of at least 16 characters. Whoever asks must show it, as `Authorization: Bearer` or as the password of a browser's dialogue; `/healthz` and `/readyz` ask for none.",
        ),
        key(
            "tls_cert",
            "path",
            "",
            "PEM file: our certificate, then those that lead to its authority. Without the key nothing is encrypted.",
        ),
        key("tls_key", "path", "", "PEM file: its private key, as `key` in `[listen.tls]`."),
        key(
            "tls_client_ca",
            "path",
            "",
            "PEM file: authorities of clients' certificates. Whoever shows none of theirs is not talked to.",
        ),
        key(
            "allowed_hosts",
            "list of host names",
            "[]",
            "Names by which the endpoint may be asked (`Host`), besides `localhost` and the address itself. Other names get 421.",
        ),
        key(
            "allowed_origins",
            "list of origins",
            "[]",
            "Other sites whose pages may read from it in a browser, as in `\"https://ops.example.com\"`. Other origins get 403.",
        ),
    ],
};
