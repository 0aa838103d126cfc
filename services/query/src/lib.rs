//! The query side: projections and typed queries.
