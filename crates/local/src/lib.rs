//! placeholder

pub mod controllers;
