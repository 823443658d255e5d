//! The one service: limits, authentication, decode, dispatch, encode.
