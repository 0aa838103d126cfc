//! Laws of the sagas that hold however their steps are interleaved, repeated and answered late.

mod fulfilment;
mod transfer;
mod world;
