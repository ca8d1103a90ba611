//! The programs of `examples/bookstore`: a buyer and a thief, a store, its warehouse, and a database that speaks first;
//! and those that test a mesh: a load, a watch, and an echo.
//!
//! They are ordinary programs. Nothing in them knows of a mesh, except that where the environment names an
//! `http_proxy` they use it, as curl does.

mod answer;
mod database;
mod dial;
mod echo;
mod load;
mod shopper;
mod store;
mod warehouse;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;

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
    /// Answers as the path asks: /status/503, /delay/1500 (in milliseconds), 200 to everything else
    Answer(Listen),
    /// Sends requests and counts what came of them
    Load(Load),
    /// Prints when the answer to a request changes
    Watch(Watch),
    /// Says back what it is told, over gRPC and WebSocket
    Echo(Echo),
    /// Talks to an echo over one gRPC stream
    Grpc(Conversation),
    /// Talks to an echo over one WebSocket
    Websocket(Conversation),
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
    /// How many requests at least, before SIGINT or SIGTERM ends it
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    at_least: u64,
    /// Over how many connections
    #[arg(long, default_value_t = 8)]
    connections: u32,
    /// A file that gets a line for each request: when it began and ended, in microseconds since 1970, and its status or
    /// a dash
    #[arg(long)]
    times: Option<PathBuf>,
    /// What is asked for in turn, with GET
    #[arg(required = true)]
    urls: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Watch {
    /// What is asked for, with GET
    url: String,
}

#[derive(Debug, Args)]
pub struct Echo {
    /// The name this server answers with, in the header `identity`
    #[arg(long, default_value = "echo")]
    name: String,
    #[command(flatten)]
    listen: Listen,
}

#[derive(Debug, Args)]
pub struct Conversation {
    /// How many messages are sent
    #[arg(long, default_value_t = 1)]
    messages: u32,
    /// Such as http://echo:14001/echo.Echo/Chat, or http://echo:14001/websocket
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
        Program::Answer(args) => answer::run(args).await,
        Program::Load(args) => load::run(args).await,
        Program::Watch(args) => watch::run(args).await,
        Program::Echo(args) => echo::run(args).await,
        Program::Grpc(args) => echo::grpc_client(args).await,
        Program::Websocket(args) => echo::websocket_client(args).await,
    }
}
