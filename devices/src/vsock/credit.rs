//! The two credit accounts of a connection (virtio-v1.2 §5.10.6.3), in wrapping 32-bit arithmetic.

/// A side went beyond its credit, or claims to have taken what was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overdrawn;

/// What the guest may send: our receive buffer, as far as it knows.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    size: u32,
    received: u32,
    forwarded: u32,
    told: u32,
}

impl Window {
    /// An empty buffer of `size` bytes.
    pub fn new(size: u32) -> Self {
        Self {
            size,
            received: 0,
            forwarded: 0,
            told: 0,
        }
    }

    /// Takes `len` bytes in, or refuses what does not fit.
    pub fn receive(&mut self, len: u32) -> Result<(), Overdrawn> {
        let held = self.received.wrapping_sub(self.forwarded);
        if len > self.size - held {
            return Err(Overdrawn);
        }
        self.received = self.received.wrapping_add(len);
        Ok(())
    }

    /// `len` bytes have left the buffer. No more than were received.
    pub fn forward(&mut self, len: u32) {
        self.forwarded = self.forwarded.wrapping_add(len);
    }

    /// Whether the guest should hear of its credit now: it believes that at most half is left,
    /// while more is. A sender that stopped is therefore always woken.
    pub fn is_update_due(&self) -> bool {
        let believed_held = self.received.wrapping_sub(self.told);
        let news = self.forwarded.wrapping_sub(self.told);
        believed_held >= self.size / 2 && news >= self.size / 4
    }

    /// `buf_alloc` and `fwd_cnt` for a packet that is about to be sent.
    pub fn tell(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (self.size, self.forwarded)
    }
}

/// What we may send: the guest's receive buffer, as far as we know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    buf_alloc: u32,
    fwd_cnt: u32,
    sent: u32,
}

impl Allowance {
    /// Takes over what a packet of the guest says.
    ///
    /// # Errors
    /// [`Overdrawn`] when it claims to have taken more than was sent.
    pub fn update(&mut self, buf_alloc: u32, fwd_cnt: u32) -> Result<(), Overdrawn> {
        let in_flight = self.sent.wrapping_sub(self.fwd_cnt);
        let progress = fwd_cnt.wrapping_sub(self.fwd_cnt);
        if progress <= in_flight {
            self.fwd_cnt = fwd_cnt;
        } else if progress <= u32::MAX / 2 {
            return Err(Overdrawn);
        }
        // Else it is an older count, from a packet that was overtaken in the guest.
        self.buf_alloc = buf_alloc;
        Ok(())
    }

    /// Bytes that may be sent now. Zero if the guest shrank its buffer below what is in flight.
    pub fn free(&self) -> u32 {
        self.buf_alloc
            .saturating_sub(self.sent.wrapping_sub(self.fwd_cnt))
    }

    /// `len` bytes were sent. No more than [`free`](Self::free).
    pub fn send(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_takes_what_it_advertised_and_no_more() {
        let mut window = Window::new(100);
        assert_eq!(window.receive(60), Ok(()));
        assert_eq!(window.receive(41), Err(Overdrawn));
        assert_eq!(window.receive(40), Ok(()));
        assert_eq!(window.receive(1), Err(Overdrawn));
        window.forward(1);
        assert_eq!(window.receive(1), Ok(()));
    }

    #[test]
    fn an_update_falls_due_before_a_sender_stalls() {
        let mut window = Window::new(100);
        window.tell();
        for _ in 0..10_000 {
            // A sender that always uses all the credit that it knows of.
            window.receive(100).unwrap();
            assert!(!window.is_update_due(), "nothing has been forwarded");
            window.forward(100);
            assert!(window.is_update_due());
            assert_eq!(window.tell().0, 100);
            assert!(!window.is_update_due());
        }
    }

    #[test]
    fn counters_wrap() {
        let mut allowance = Allowance::default();
        allowance.update(1 << 30, 0).unwrap();
        let mut fwd = 0_u32;
        for _ in 0..16 {
            assert_eq!(allowance.free(), 1 << 30);
            allowance.send(1 << 30);
            assert_eq!(allowance.free(), 0);
            fwd = fwd.wrapping_add(1 << 30);
            allowance.update(1 << 30, fwd).unwrap();
        }
    }

    #[test]
    fn case_06_a_claim_beyond_what_was_sent_is_refused() {
        let mut allowance = Allowance::default();
        allowance.update(1000, 0).unwrap();
        allowance.send(10);
        assert_eq!(allowance.update(1000, 11), Err(Overdrawn));
        assert_eq!(allowance.free(), 990);
        assert_eq!(allowance.update(1000, 10), Ok(()));
        // An older count neither harms nor helps.
        assert_eq!(allowance.update(1000, 5), Ok(()));
        assert_eq!(allowance.free(), 1000);
        // A shrunken buffer gives no negative credit.
        allowance.send(500);
        assert_eq!(allowance.update(100, 10), Ok(()));
        assert_eq!(allowance.free(), 0);
    }
}
