//! A tap of Linux, in a network namespace of its own. Needs root.
