//! The programs of `examples/bookstore`: a buyer and a thief, a store, its warehouse, and a database that speaks first.
//!
//! They are ordinary programs. Nothing in them knows of a mesh, except that where the environment names an
//! `http_proxy` they use it, as curl does.

mod database;
mod dial;
mod load;
mod shopper;
mod store;
mod warehouse;
mod watch;

use std::net::SocketAddr;

use clap::{Args, Subcommand};

/// One program of the bookstore example.
#[derive(Debug, Subcommand)]
pub enum Program {
    /// Buys books: asks for the count, then buys one, again and again
    Bookbuyer(Shopper),
    /// Wants the same books without being allowed to
    Bookthief(Shopper),
    /// Sells books over HTTP, and restocks from the warehouse
    Bookstore(Store),
    /// Takes restock orders over HTTP, and writes them to the database
    Bookwarehouse(Warehouse),
    /// Stores what it is told, over TCP; the server speaks first
    Bookdatabase(Listen),
    /// Sends requests and counts what came of them
    Load(Load),
    /// Prints when the answer to a request changes
    Watch(Watch),
}

#[derive(Debug, Args)]
pub struct Shopper {
    /// The store's URL
    #[arg(long, default_value = "http://bookstore.bookstore:14001")]
    store: String,
    /// Purchases a second
    #[arg(long, default_value_t = 5)]
    rate: u32,
    #[command(flatten)]
    listen: Listen,
}

#[derive(Debug, Args)]
pub struct Store {
    /// The name this store answers with, in the header `identity`
    #[arg(long)]
    name: String,
    /// The warehouse's URL
    #[arg(long, default_value = "http://bookwarehouse.bookwarehouse:14001")]
    warehouse: String,
    #[command(flatten)]
    listen: Listen,
}

#[derive(Debug, Args)]
pub struct Warehouse {
    /// The database's host and port
    #[arg(long, default_value = "bookdatabase.bookdatabase:3306")]
    database: String,
    #[command(flatten)]
    listen: Listen,
}

#[derive(Debug, Args)]
pub struct Load {
    /// How many requests at most
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    requests: u64,
    /// For how long at most
    #[arg(long)]
    seconds: Option<u64>,
    /// Over how many connections
    #[arg(long, default_value_t = 8)]
    connections: u32,
    /// What is asked for, with GET
    url: String,
}

#[derive(Debug, Args)]
pub struct Watch {
    /// What is asked for, with GET
    url: String,
}

#[derive(Debug, Args)]
pub struct Listen {
    /// The address to listen on
    #[arg(long, default_value = "0.0.0.0:14001")]
    listen: SocketAddr,
}

/// Runs a program until it fails or is stopped by a signal.
pub async fn run(program: Program) -> anyhow::Result<()> {
    match program {
        Program::Bookbuyer(args) => shopper::run("bookbuyer", args).await,
        Program::Bookthief(args) => shopper::run("bookthief", args).await,
        Program::Bookstore(args) => store::run(args).await,
        Program::Bookwarehouse(args) => warehouse::run(args).await,
        Program::Bookdatabase(args) => database::run(args).await,
        Program::Load(args) => load::run(args).await,
        Program::Watch(args) => watch::run(args).await,
    }
}
