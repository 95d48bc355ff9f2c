// on_threads(count, body): runs the body on `count` threads at once, this one among them. Sharing out the work is the
// body's business, so that it does not matter when a thread begins, or whether it does.
#pragma once

#ifdef _OPENMP

// The pool that torch has started is used (cpu.py).
template <class Body>
void on_threads(int64_t count, const Body& body) {
#pragma omp parallel num_threads(static_cast<int>(count))
    body();
}

#else  // macOS, whose compiler comes without OpenMP

#include <pthread.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

// Threads that wait for a body. They are never joined: like the pool, they live as long as the process.
class Pool {
  public:
    static Pool& instance() {
        static Pool* pool = nullptr;
        static std::once_flag once;
        std::call_once(once, [] {
            pool = new Pool;
            pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });  // a forked child has none of the threads
        });
        return *pool;
    }

    void run(int64_t count, const std::function<void()>& body) {
        const std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
        if (count < 2 || !turn) return body();  // one caller at a time; another does its work by itself
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            for (; threads_ < count - 1; ++threads_) std::thread([this] { serve(); }).detach();
            body_ = &body;
            wanted_ = count - 1;
        }
        begin_.notify_all();
        body();
        std::unique_lock<std::mutex> lock(mutex_);
        wanted_ = 0;  // who has not begun by now would find nothing to do
        ended_.wait(lock, [this] { return running_ == 0; });
    }

  private:
    void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            begin_.wait(lock, [this] { return wanted_ > 0; });
            --wanted_;
            ++running_;
            lock.unlock();
            (*body_)();
            lock.lock();
            if (--running_ == 0) ended_.notify_one();
        }
    }

    std::mutex turn_, mutex_;
    std::condition_variable begin_, ended_;
    const std::function<void()>* body_ = nullptr;
    int64_t threads_ = 0, wanted_ = 0, running_ = 0;
};

template <class Body>
void on_threads(int64_t count, const Body& body) {
    Pool::instance().run(count, body);
}

#endif
