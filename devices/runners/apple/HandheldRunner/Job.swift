import Foundation

/// `PASS [JOB] LAUNCH [CANDIDATE]`, as the app is launched with.
struct Arguments {
    let work: String
    let job: String?
    let launch: String
    let candidate: Int?

    /// Nil where the app was started by hand.
    init?(_ words: [String]) {
        let known = ["hello", "prove", "measure", "memory", "plan", "clean"]
        guard words.count >= 3, known.contains(words[1]) else { return nil }
        work = words[1]
        if work == "hello" {
            job = nil
            launch = words[2]
            candidate = nil
        } else {
            guard words.count >= 4 else { return nil }
            job = words[2]
            launch = words[3]
            candidate = words.count > 4 ? Int(words[4]) : nil
        }
    }
}

struct TensorFile: Decodable {
    let name: String
    let dtype: String
    let shape: [Int]
    let file: String
}

struct Candidate: Decodable {
    let candidate: Int
    let runtime: String
    let model: String
    let bytes: Int
    let compute_units: String?
    let stateful: Bool
    let inputs: [TensorFile]
    let before: [[TensorFile]]
    let outputs: [String]
}

struct Rules: Decodable {
    let window: Int
    let spread: Double
    let warmup_limit: Int
    let cooling_limit_s: Double
    let cooling_step_s: Double
    let pause_s: Double
    let memory_runs: Int
}

struct Job: Decodable {
    let `protocol`: Int
    let job: String
    let candidates: [Candidate]
    let total: Int
    let repeats: Int
    let iterations: Int
    let first_round: Int
    let rules: Rules
    let keep: Bool
}

/// A reason in words, for the events.
struct Trouble: Error, CustomStringConvertible {
    let stage: String
    let message: String

    var description: String { message }

    init(_ stage: String, _ message: String) {
        self.stage = stage
        self.message = message
    }
}

/// Where the app works: `Documents/handheld` of its container.
struct Folder {
    let root: URL
    let models: URL

    init() throws {
        let documents = FileManager.default.urls(for: .documentDirectory, in: .userDomainMask)[0]
        root = documents.appendingPathComponent("handheld", isDirectory: true)
        models = root.appendingPathComponent("models", isDirectory: true)
        try FileManager.default.createDirectory(at: models, withIntermediateDirectories: true)
    }

    func file(_ name: String) -> URL { root.appendingPathComponent(name) }
}
