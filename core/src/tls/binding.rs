//! What both ends of a TLS connection know of it and nobody in between can feign: `tls-server-end-point` of RFC 5929.

use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::tls::der::Certificate;

/// `1.2.840.113549.1.1` (RSA) and `1.2.840.10045.4` (ECDSA) in DER.
const RSA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1];
const ECDSA: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4];
const ECDSA_SHA2: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3];

/// The hash of a server's certificate, by the hash function it is signed with and SHA-256 in place of weaker ones; none
/// where its algorithm names no such function, and then PostgreSQL does not bind either.
pub(crate) fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    let algorithm = Certificate::read(der)?.signed.algorithm;
    let rsa = algorithm.strip_prefix(RSA).and_then(<[u8]>::first);
    let ecdsa = algorithm.strip_prefix(ECDSA_SHA2).and_then(<[u8]>::first);
    let weak_ecdsa = algorithm.strip_prefix(ECDSA).and_then(<[u8]>::first);
    match (rsa, ecdsa, weak_ecdsa) {
        // MD5, SHA-1, SHA-256
        (Some(4 | 5 | 11), ..) | (_, Some(2), _) | (.., Some(1)) => Some(Sha256::digest(der).to_vec()),
        (Some(12), ..) | (_, Some(3), _) => Some(Sha384::digest(der).to_vec()),
        (Some(13), ..) | (_, Some(4), _) => Some(Sha512::digest(der).to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let hash = |algorithm: &'static SignatureAlgorithm| {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let der = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().der().to_vec();
            end_point(&der).map(|hash| (hash.len(), hash == Sha256::digest(&der).to_vec()))
        };
        assert_eq!(hash(&rcgen::PKCS_ECDSA_P256_SHA256), Some((32, true)));
        assert_eq!(hash(&rcgen::PKCS_ECDSA_P384_SHA384), Some((48, false)));
        assert_eq!(hash(&rcgen::PKCS_ED25519), None);
        assert_eq!(end_point(b"no certificate"), None);
    }
}
