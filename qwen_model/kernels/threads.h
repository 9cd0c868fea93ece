// Threads: helpers for decoding, torch's own for wide work.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>

namespace {

constexpr uint32_t RUN = 32;  // units that a thread takes at once, at most
constexpr int SPINS = 5000;   // pauses until an idle helper sleeps, about 0.1 ms

// Threads that help where they can. Whoever is running takes the next unit of work, and the caller waits only for units
// that were begun: on a busy machine a helper that gets no core costs nothing, where an OpenMP team waits at every
// barrier for its last member. Helpers sleep soon after the last call, so torch's own threads find the cores free.
class Helpers {
  public:
    template <class Work> void run(long units, int threads, const Work& work) {
        std::unique_lock<std::mutex> alone(busy_, std::try_to_lock);
        if (threads <= 1 || units <= 1 || !alone.owns_lock()) {
            for (long unit = 0; unit < units; unit++) work(unit);
            return;
        }
        for (; started_ < threads - 1; started_++) std::thread(&Helpers::help, this, started_).detach();
        call_ = [](const void* of, long unit) { (*static_cast<const Work*>(of))(unit); };
        work_ = &work, units_ = units, wanted_ = threads - 1, done_ = 0;
        uint32_t turn = turn_ + 1;
        open_ = uint64_t(turn) << 32 | uint32_t(units);
        turn_ = turn;
        if (asleep_) turn_.notify_all();
        while (take()) {
        }
        for (int spins = 0; done_ < units; spins++) rest(spins);
    }
    void forked() { started_ = 0; }  // a child process has no helpers yet

  private:
    std::mutex busy_;
    int started_ = 0;
    alignas(64) std::atomic<uint64_t> open_{0};  // turn << 32 | units not taken: a stale turn can take nothing
    alignas(64) std::atomic<long> done_{0};
    alignas(64) std::atomic<uint32_t> turn_{0};
    std::atomic<int> asleep_{0}, wanted_{0};
    std::atomic<long> units_{0};
    std::atomic<const void*> work_{nullptr};
    std::atomic<void (*)(const void*, long)> call_{nullptr};

    static void rest(int spins) {
        if (spins % 256 == 255) return std::this_thread::yield();
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    bool take() {
        uint64_t open = open_;
        while (uint32_t(open)) {
            auto call = call_.load();
            const void* work = work_;
            // runs of units, shorter towards the end: what is fetched ahead is mostly one's own
            uint32_t count = std::clamp<uint32_t>(uint32_t(open) / (2 * wanted_ + 2), 1, RUN);
            long unit = units_ - uint32_t(open);
            if (!open_.compare_exchange_weak(open, open - count)) continue;  // else what was read belongs to this turn
            for (uint32_t i = 0; i < count; i++) call(work, unit + i);
            done_ += count;
            return true;
        }
        return false;
    }
    void help(int index) {
        for (uint32_t seen = 0;; seen = turn_) {
            while (index < wanted_ && take()) {
            }
            for (int spins = 0; turn_ == seen && spins < SPINS; spins++) rest(spins);
            if (turn_ != seen) continue;
            asleep_++;
            turn_.wait(seen);
            asleep_--;
        }
    }
};
Helpers& helpers = *new Helpers;  // never destroyed: its threads may still sleep when the process ends

// Work between torch's products of many rows: by torch's own threads, which are awake then and would fight with helpers.
template <class Work> void spread(long units, int threads, const Work& work) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long unit = 0; unit < units; unit++) work(unit);
}

}  // namespace
