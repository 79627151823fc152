import Foundation

/// One launch: works off a pass of a job and tells what it finds.
final class Runner {
    private let arguments: Arguments
    private let charging: Bool?

    init(_ arguments: Arguments, charging: Bool?) {
        self.arguments = arguments
        self.charging = charging
    }

    func run() {
        do {
            let folder = try Folder()
            let lasting = ["hello", "clean"].contains(arguments.work)
            let name = lasting ? "\(arguments.work).jsonl" : "\(arguments.job ?? "")-\(arguments.work).jsonl"
            let events = try Events(folder.file(name), anew: lasting)
            events.tell("ready", ready(folder))
            do {
                try work(folder, events)
            } catch {
                events.tell("error", ["message": words(error)])
            }
            events.tell("ended")
        } catch {
            NSLog("handheld: %@", words(error))
        }
    }

    private func work(_ folder: Folder, _ events: Events) throws {
        if arguments.work == "hello" {
            removeOld(folder)
            return
        }
        guard let name = arguments.job else { throw Trouble("job", "no job was named") }
        let file = folder.file("\(name)-\(arguments.launch).json")
        let job = try JSONDecoder().decode(Job.self, from: Data(contentsOf: file))
        guard job.protocol == 1 else { throw Trouble("job", "protocol \(job.protocol) is not known to this app") }
        switch arguments.work {
        case "prove": prove(job, folder, events)
        case "measure": Measurement(job, folder, events).run()
        case "memory": try memory(job, folder, events)
        case "plan": plan(job, folder, events)
        default: clean(job, folder)
        }
    }

    /// Load each candidate and run it once; its outputs go to files, for the Mac to compare.
    private func prove(_ job: Job, _ folder: Folder, _ events: Events) {
        for candidate in job.candidates {
            attempt(candidate, "load", events) {
                let model = try makeModel(candidate, folder)
                try model.prepare()
                let load = try timed { try model.load() }
                events.step("first inference", candidate.candidate)
                let first = try firstCalls(model)
                var files: [[String: Any]] = []
                for (number, output) in try model.outputs().enumerated() {
                    let file = "\(job.job)-output-\(candidate.candidate)-\(number).bin"
                    try output.data.write(to: folder.file(file))
                    files.append(["name": output.name, "file": file, "dtype": output.dtype, "shape": output.shape])
                }
                events.tell("proved", [
                    "candidate": candidate.candidate, "runtime": model.runtime, "load_ms": load, "first_ms": first,
                    "compile_ms": model.compileMs, "outputs": files,
                ])
            }
        }
    }

    /// Memory of this process, which has done nothing else: before loading, and its peak over loading and running.
    private func memory(_ job: Job, _ folder: Folder, _ events: Events) throws {
        guard let candidate = job.candidates.first(where: { $0.candidate == arguments.candidate }) else {
            throw Trouble("job", "the candidate of the memory pass is not in the job")
        }
        attempt(candidate, "memory", events) {
            let model = try makeModel(candidate, folder)
            try model.prepare()
            let before = try footprint()
            let watch = PeakWatch(before)
            watch.start()
            try model.load()
            for _ in 0..<job.rules.memory_runs { _ = try firstCalls(model) }
            let peak = try max(watch.stop(), footprint())
            events.tell("memory", [
                "candidate": candidate.candidate, "baseline_bytes": before, "peak_bytes": peak,
            ])
        }
    }

    private func plan(_ job: Job, _ folder: Folder, _ events: Events) {
        for candidate in job.candidates where candidate.runtime == "coreml" {
            attempt(candidate, "plan", events) {
                let model = CoreMLRunner(candidate, folder)
                try model.prepare()
                guard let rows = try model.plan() else { throw Trouble("plan", "needs iOS 17.4") }
                events.tell("placed", ["candidate": candidate.candidate, "placement": rows.map(plain)])
            }
        }
    }

    private func clean(_ job: Job, _ folder: Folder) {
        let files = FileManager.default
        for name in (try? files.contentsOfDirectory(atPath: folder.root.path)) ?? [] where name.hasPrefix(job.job + "-") {
            try? files.removeItem(at: folder.file(name))
        }
        if job.keep { return }
        for candidate in job.candidates {
            try? files.removeItem(at: folder.models.appendingPathComponent(candidate.model))
            try? files.removeItem(at: folder.models.appendingPathComponent(candidate.model + ".mlmodelc"))
        }
    }

    /// What jobs of more than a week ago left when their connection broke and nobody resumed them.
    private func removeOld(_ folder: Folder) {
        let files = FileManager.default
        let limit = Date().addingTimeInterval(-7 * 24 * 3600)
        for name in (try? files.contentsOfDirectory(atPath: folder.root.path)) ?? [] where name != "models" {
            let path = folder.file(name).path
            if let made = (try? files.attributesOfItem(atPath: path))?[.modificationDate] as? Date, made < limit {
                try? files.removeItem(atPath: path)
            }
        }
    }

    private func ready(_ folder: Folder) -> [String: Any?] {
        let process = ProcessInfo.processInfo
        let version = Bundle.main.object(forInfoDictionaryKey: "CFBundleShortVersionString") as? String
        let files = FileManager.default
        let names = ((try? files.contentsOfDirectory(atPath: folder.models.path)) ?? []).sorted()
        let models: [[String: Any]] = names.filter { !$0.hasSuffix(".mlmodelc") }.map { name in
            let path = folder.models.appendingPathComponent(name).path
            let size = (try? files.attributesOfItem(atPath: path))?[.size] as? Int
            return ["name": name, "bytes": size ?? 0]
        }
        return [
            "protocol": 1, "launch": arguments.launch, "app": version ?? "unknown",
            "system": "iOS \(systemVersion)", "model": machine(),
            "cores": process.processorCount, "memory_bytes": process.physicalMemory, "thermal": thermal(),
            "charging": charging, "low_power": process.isLowPowerModeEnabled, "runtimes": runtimes, "models": models,
        ]
    }
}

/// Do something with a candidate; what fails is told and the others go on.
func attempt(_ candidate: Candidate, _ stage: String, _ events: Events, _ work: () throws -> Void) {
    events.step(stage, candidate.candidate)
    do {
        try autoreleasepool { try work() }
    } catch {
        let at = (error as? Trouble)?.stage ?? stage
        events.tell("failed", ["candidate": candidate.candidate, "stage": at, "message": words(error)])
    }
}

/// The earlier steps of a stream where there are such, then the call on the inputs; milliseconds of the very first.
func firstCalls(_ model: Model) throws -> Double {
    var times: [Double] = []
    for step in 0..<model.steps { times.append(try timed { try model.runStep(step) }) }
    times.append(try timed { try model.run() })
    return times[0]
}

func words(_ error: Error) -> String {
    let text = (error as? Trouble)?.message ?? (error as NSError).localizedDescription
    return String(text.split(whereSeparator: \.isNewline).joined(separator: " ").prefix(400))
}

/// A row with null for what is not known.
private func plain(_ row: [String: Any?]) -> [String: Any] { row.mapValues { $0 ?? NSNull() } }

/// As Settings shows it, such as 18.1 or 18.1.2.
var systemVersion: String {
    let found = ProcessInfo.processInfo.operatingSystemVersion
    let patch = found.patchVersion > 0 ? ".\(found.patchVersion)" : ""
    return "\(found.majorVersion).\(found.minorVersion)" + patch
}

func thermal() -> String {
    switch ProcessInfo.processInfo.thermalState {
    case .nominal: return "nominal"
    case .fair: return "fair"
    case .serious: return "serious"
    case .critical: return "critical"
    @unknown default: return "unknown"
    }
}

private func machine() -> String {
    var info = utsname()
    uname(&info)
    return withUnsafeBytes(of: &info.machine) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
}
