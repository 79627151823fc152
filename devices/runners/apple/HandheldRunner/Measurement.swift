import Foundation

/// The pass of timing: warm-up until steady, then rounds that call every candidate once, each starting with another one.
final class Measurement {
    private let job: Job
    private let folder: Folder
    private let events: Events
    private var active: [(number: Int, model: Model)] = []
    private let startState = ProcessInfo.processInfo.thermalState

    init(_ job: Job, _ folder: Folder, _ events: Events) {
        self.job = job
        self.folder = folder
        self.events = events
    }

    func run() {
        for candidate in job.candidates {
            attempt(candidate, "warm up", events) { try warm(candidate) }
        }
        var repeated = -1
        var number = job.first_round
        while number < job.repeats * job.iterations, !active.isEmpty {
            let now = number / job.iterations
            if now != repeated {
                begin(now)
                repeated = now
            }
            if round(number) { number += 1 }
        }
    }

    private func warm(_ candidate: Candidate) throws {
        let model = try makeModel(candidate, folder)
        try model.prepare()
        try model.load()
        _ = try firstCalls(model)
        var times: [Double] = []
        while times.count < job.rules.warmup_limit, !isSteady(times) {
            times.append(try timed { try model.run() })
        }
        events.tell("warmed", ["candidate": candidate.candidate, "warmup_ms": times])
        active.append((candidate.candidate, model))
    }

    private func isSteady(_ times: [Double]) -> Bool {
        guard times.count >= job.rules.window else { return false }
        let last = times.suffix(job.rules.window).sorted()
        let half = last.count / 2
        let median = last.count % 2 == 1 ? last[half] : (last[half - 1] + last[half]) / 2
        return last[last.count - 1] - last[0] <= job.rules.spread * median
    }

    private func begin(_ repeated: Int) {
        let (waited, cooled) = repeated > 0 ? coolDown() : (0, true)
        events.tell("began", [
            "repeat": repeated, "started": ISO8601DateFormatter().string(from: Date()), "waited_s": waited,
            "cooled": cooled, "thermal": thermal(),
        ])
    }

    /// iOS tells no temperature, but how hot it counts itself: wait until it is no hotter than at the start.
    private func coolDown() -> (Double, Bool) {
        let start = Date()
        Thread.sleep(forTimeInterval: job.rules.pause_s)
        while ProcessInfo.processInfo.thermalState.rawValue > startState.rawValue {
            if -start.timeIntervalSinceNow >= job.rules.cooling_limit_s { return (-start.timeIntervalSinceNow, false) }
            Thread.sleep(forTimeInterval: job.rules.cooling_step_s)
        }
        return (-start.timeIntervalSinceNow, true)
    }

    /// False where a candidate failed: the others do the round anew.
    private func round(_ number: Int) -> Bool {
        var times = [Double?](repeating: nil, count: job.total)
        for offset in 0..<active.count {
            let index = (number + offset) % active.count
            let (candidate, model) = active[index]
            events.step("round", candidate)
            do {
                times[candidate] = try autoreleasepool { try timed { try model.run() } }
            } catch {
                events.tell("failed", ["candidate": candidate, "stage": "run", "message": words(error)])
                active.remove(at: index)
                return false
            }
        }
        let told: [Any] = times.map { $0.map { $0 as Any } ?? NSNull() }
        events.tell("round", ["number": number, "times_ms": told])
        return true
    }
}
