//! Making a pool when its first client comes: which database, which credentials, how many permits.

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;

use config::Known;
use dbproto::auth::{Credentials, Proof, Proofs};
use runtime::ShardId;

use crate::bound::Bound;
use crate::catalog::keeper::{News, WatchRequest};
use crate::error::Failure;
use crate::pool::{Lending, Pool, PoolId, Target, Watch};
use crate::session::SessionId;
use crate::shard::Shard;
use crate::upstream::Places;

/// Pools a shard keeps; a database `*` lets clients ask for any name.
const POOLS_MAX: usize = 4096;
/// Pools whose times are told apart to three digits, which takes up to 272 KiB of each; those of later ones to a thirtieth, in
/// 11 KiB at most.
const FINE_POOLS_MAX: usize = 64;

/// This shard's part of `size` permits: shares differ by one at most, and which shards have one more depends on the pool, so
/// that small pools do not all live on the first shard.
pub(crate) fn share_of(size: u32, shards: u32, shard: u32, turn: u32) -> u32 {
    let shards = shards.max(1);
    let rank = (shard % shards + shards - turn % shards) % shards;
    size / shards + u32::from(rank < size % shards)
}

/// Where the turn of a pool begins.
pub(crate) fn turn_of(user: &str, database: &str) -> u32 {
    // a fixed seed: all shards must agree
    let mut hasher = foldhash::quality::FixedState::with_seed(0x706f_6f6c).build_hasher();
    hasher.write(database.as_bytes());
    hasher.write_u8(0);
    hasher.write(user.as_bytes());
    u32::try_from(hasher.finish() >> 40).unwrap_or_default()
}

/// What a list of users has that is enough to log in with. A SCRAM verifier is not.
fn stored(known: &Known) -> Credentials {
    match known {
        Known::Plain(password) => Credentials::of_password(Some(password.as_str().as_bytes())),
        Known::Hashed(secret) => Credentials::of_md5(secret.as_str()),
    }
}

/// A database's hosts, for people.
pub(crate) fn written(database: &config::Database) -> Arc<str> {
    database.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",").into()
}

/// How a database's server may have us prove who we are.
pub(crate) fn proofs_of(database: &config::Database) -> Proofs {
    let Some(list) = &database.tls.require_auth else { return Proofs::ALL };
    Proofs::of(|proof| {
        list.allows(match proof {
            Proof::None => config::Proof::None,
            Proof::Password => config::Proof::Password,
            Proof::Md5 => config::Proof::Md5,
            Proof::Scram => config::Proof::Scram,
        })
    })
}

impl Shard {
    /// The pool of a user and database, made if it is new.
    pub(crate) fn pool_for(&mut self, shards: u32, user: &str, database: &str) -> Result<PoolId, Failure> {
        self.pool_with(shards, user, database, &Credentials::None)
    }

    /// As [`Shard::pool_for`]; `shown` is what a client of the pool's has just logged in with.
    pub(crate) fn pool_with(
        &mut self,
        shards: u32,
        user: &str,
        database: &str,
        shown: &Credentials,
    ) -> Result<PoolId, Failure> {
        let key = (database.to_owned(), user.to_owned());
        if let Some(id) = self.pool_index.get(&key).copied() {
            if let Some(pool) = self.pool_mut(id)
                && pool.lending == Lending::Clients
                && *shown != Credentials::None
            {
                pool.target.credentials = shown.clone();
            }
            return Ok(id);
        }
        let unknown = || Failure::UnknownDatabase { database: database.to_owned() };
        let found = self.config.database(database).ok_or_else(unknown)?;
        let number = self.config.databases.iter().position(|other| std::ptr::eq(other, found)).ok_or_else(unknown)?;
        let places = self.places.get(number).cloned().ok_or_else(unknown)?;
        if self.pools.len() >= POOLS_MAX {
            return Err(Failure::Internal { what: format!("too many pools: {POOLS_MAX} pairs of database and user") });
        }
        let (target, lending) = self.target_for((number, found), places, (database, user), shown);
        let mut settings = self.config.pool_for(found, user);
        settings.min_pool_size = settings.min_pool_size.min(settings.size);
        let permits = share_of(settings.size, shards, u32::from(self.stats.shard), turn_of(user, database));
        let id = PoolId(u32::try_from(self.pools.len()).unwrap_or(u32::MAX));
        let mut pool = Pool::new(format!("{database}/{user}"), target, settings, permits);
        pool.lending = lending;
        pool.database = (number, pool.target.database.clone());
        pool.news = self.news.get(&pool.database).cloned();
        pool.minor = found.tls.protocol.minor();
        pool.paused = self.levers.pauses(database);
        pool.stats.shard = self.stats.shard;
        if self.pools.len() >= FINE_POOLS_MAX {
            pool.stats.grade(stats::Grade::Coarse);
        }
        pool.common = self.board.bounds.common(&key);
        let user_number = self.board.bounds.user(user);
        pool.supply.bound = Bound { database: number, user: user_number };
        database.clone_into(&mut pool.stats.database);
        user.clone_into(&mut pool.stats.user);
        self.pools.push(pool);
        self.pool_index.insert(key, id);
        Ok(id)
    }

    /// Somebody is to read the catalog of a pool's database, unless that is done already.
    pub(crate) fn watch_catalog(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(id.0 as usize) else { return };
        let first = std::mem::replace(&mut pool.watch, Watch::Asked) == Watch::NotAsked;
        if first && pool.news.is_none() {
            let request = WatchRequest { key: pool.database.clone(), target: pool.target.clone() };
            // without a keeper nothing is shared
            let _sent: Result<(), _> = self.board.keeper.send(request);
        }
    }

    /// How server connections of a pool are made by the configuration as it is now, and whose credentials they use; `shown` is
    /// what a client has logged in with.
    pub(crate) fn target_for(
        &self,
        (number, found): (usize, &config::Database),
        places: Places,
        (database, user): (&str, &str),
        shown: &Credentials,
    ) -> (Target, Lending) {
        let account = self.config.user(user);
        // the database's user is everybody's; a password belongs to the user it stands beside
        let own = account.and_then(|account| account.server_password.as_ref());
        let (server_user, password) = match &found.user {
            Some(user) => (Some(user.clone()), found.password.as_ref()),
            None => (account.and_then(|account| account.server_user.clone()), own.or(found.password.as_ref())),
        };
        let server_user = server_user.unwrap_or_else(|| user.to_owned());
        let fixed = match password {
            Some(password) => Credentials::of_password(Some(password.as_str().as_bytes())),
            None => self.config.auth.listed.find(&server_user).map_or(Credentials::None, stored),
        };
        let lending = if fixed == Credentials::None && server_user == user { Lending::Clients } else { Lending::Fixed };
        let target = Target {
            host: written(found),
            places,
            attrs: found.target_session_attrs,
            database: found.dbname.clone().unwrap_or_else(|| database.to_owned()),
            user: server_user,
            credentials: if lending == Lending::Clients { shown.clone() } else { fixed },
            tls: self.tls.servers.get(number).cloned().unwrap_or_default(),
            proofs: proofs_of(found),
            connect_query: found.connect_query.as_deref().map(Arc::from),
            settings: found.settings.clone().into(),
        };
        (target, lending)
    }

    /// A shard that has permits of a pool this shard has none of.
    pub(crate) fn permit_owner(&self, shards: u32, user: &str, database: &str) -> ShardId {
        ShardId(u16::try_from(turn_of(user, database) % shards.max(1)).unwrap_or_default())
    }

    /// News of a catalog reaches the pools of its database.
    pub(crate) fn on_news(&mut self, news: &News) {
        for pool in self.pools.iter_mut().filter(|pool| pool.database == news.watch.key) {
            if pool.news.is_none() && pool.catalog_changes > 0 {
                // it changed while nobody was watching
                news.watch.note_change();
            }
            if pool.paused {
                news.watch.hold();
            }
            pool.news = Some(news.clone());
        }
        self.news.insert(news.watch.key.clone(), news.clone());
    }

    /// The session does not wait any more.
    pub(crate) fn stop_waiting(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id).filter(|session| session.place == crate::session::Place::Waiting)
        else {
            return;
        };
        let pool = session.pool;
        self.leave_line(pool, id);
        if let Some(pool) = self.pool_mut(pool) {
            pool.waiting.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_size_whatever_the_turn() {
        for size in [1, 2, 7, 8, 20] {
            for shards in [1, 2, 3, 8] {
                for turn in [0, 1, 5, 1_000_003] {
                    let shares: Vec<u32> = (0..shards).map(|shard| share_of(size, shards, shard, turn)).collect();
                    assert_eq!(shares.iter().sum::<u32>(), size);
                    let owner = turn % shards;
                    assert!(shares[owner as usize] > 0, "the owner of a small pool has a permit of it");
                }
            }
        }
    }
}
