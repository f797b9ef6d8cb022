//! What a worker counts.

/// Defines the counters, their sum and their names from one list.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Plain counts of one worker since its start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl std::ops::AddAssign for Counters {
            fn add_assign(&mut self, other: Counters) {
                $(self.$name += other.$name;)*
            }
        }

        impl Counters {
            /// Every counter with its name, in the order of their definition.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    requests,
    protocol_errors,
    /// Redirects that were absorbed.
    moved,
    asked,
    try_again,
    /// CLUSTERDOWN, MASTERDOWN, LOADING and READONLY that were absorbed.
    held,
    resent,
    /// Resends that waited for the retry budget.
    budget_waits,
    /// Requests that got an error at their deadline.
    gave_up,
    unknown_outcomes,
    /// Redirects to an address that no map had confirmed yet.
    unknown_addresses,
    /// Errors that looked like a redirect and were not followed.
    forged_redirects,
    scripts_healed,
    lost_lanes,
    /// Lanes given up because what came was no reply.
    broken_lanes,
    refused_greetings,
    /// Clients that were let in as somebody.
    logins,
    /// Wrong passwords.
    failed_logins,
    /// Logins that were not tried, because too many from their address had failed.
    throttled_logins,
    /// Requests that commands.deny refused.
    denied,
    unexpected_pushes,
    /// Clients cut off because they did not read.
    output_overflows,
    /// Messages told to subscribers.
    messages,
    /// Subscriptions at nodes that were lost and asked for anew.
    resubscriptions,
    idle_closed,
    /// Pops for clients that were gone: what was popped was put back.
    given_back,
}
