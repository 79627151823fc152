// Stands in for the part of Core ML that the runner app uses. A "package" holds a factor in JSON; a model multiplies the
// first three channels of `latent` by it and cuts off below 0. One with a state multiplies the sum of all it was given.
import Foundation

public enum MLComputeUnits: Int { case cpuOnly, cpuAndGPU, all, cpuAndNeuralEngine }

open class MLModelConfiguration {
    public var computeUnits: MLComputeUnits = .all
    public init() {}
}

public enum MLMultiArrayDataType: Int { case double, float32, float16, int32 }

public protocol MLFeatureProvider {
    func featureValue(for name: String) -> MLFeatureValue?
}

public class MLFeatureValue {
    public let multiArrayValue: MLMultiArray?
    public init(multiArray: MLMultiArray) { multiArrayValue = multiArray }
}

public class MLDictionaryFeatureProvider: MLFeatureProvider {
    private let features: [String: Any]
    public init(dictionary: [String: Any]) throws { features = dictionary }
    public func featureValue(for name: String) -> MLFeatureValue? { features[name] as? MLFeatureValue }
}

public class MLMultiArray {
    public let shape: [NSNumber]
    fileprivate var values: [Float]

    public init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws {
        self.shape = shape
        values = Array(repeating: 0, count: shape.reduce(1) { $0 * $1.intValue })
    }

    public var count: Int { values.count }

    public subscript(index: Int) -> NSNumber {
        get { NSNumber(value: values[index]) }
        set { values[index] = newValue.floatValue }
    }

    public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try values.withUnsafeBytes(body)
    }

    public func withUnsafeMutableBytes<R>(_ body: (UnsafeMutableRawBufferPointer, [Int]) throws -> R) rethrows -> R {
        try values.withUnsafeMutableBytes { try body($0, []) }
    }
}

public class MLState {
    fileprivate var sum: [Float] = []
}

public class MLModel {
    private let factor: Float

    public init(contentsOf url: URL, configuration: MLModelConfiguration) throws {
        let content = try JSONSerialization.jsonObject(with: Data(contentsOf: url.appendingPathComponent("model")))
        factor = ((content as! [String: Any])["factor"] as! NSNumber).floatValue
    }

    public class func compileModel(at url: URL) throws -> URL {
        let made = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try FileManager.default.createDirectory(at: made, withIntermediateDirectories: true)
        let model = url.appendingPathComponent("Data/com.apple.CoreML/model.mlmodel")
        try FileManager.default.copyItem(at: model, to: made.appendingPathComponent("model"))
        return made
    }

    public func prediction(from input: any MLFeatureProvider) throws -> any MLFeatureProvider {
        let latent = input.featureValue(for: "latent")!.multiArrayValue!
        return try output(latent.values, latent.shape.map { $0.intValue })
    }

    public func prediction(from input: any MLFeatureProvider, using state: MLState) throws -> any MLFeatureProvider {
        let latent = input.featureValue(for: "latent")!.multiArrayValue!
        state.sum = state.sum.isEmpty ? latent.values : zip(state.sum, latent.values).map(+)
        return try output(state.sum, latent.shape.map { $0.intValue })
    }

    public func makeState() -> MLState { MLState() }

    private func output(_ values: [Float], _ shape: [Int]) throws -> MLFeatureProvider {
        let plane = shape[2] * shape[3]
        let made = try MLMultiArray(
            shape: [shape[0], 3, shape[2], shape[3]].map { NSNumber(value: $0) }, dataType: .float32)
        for frame in 0..<shape[0] {
            for at in 0..<3 * plane {
                made.values[frame * 3 * plane + at] = max(factor * values[frame * shape[1] * plane + at], 0)
            }
        }
        return try MLDictionaryFeatureProvider(dictionary: ["frames": MLFeatureValue(multiArray: made)])
    }
}

public enum MLComputeDevice { case cpu(Int), gpu(Int), neuralEngine(Int) }

public enum MLModelStructure {
    public struct Program {
        public struct Function { public let block: Block }
        public struct Block { public let operations: [Operation] }
        public struct Operation {
            public let operatorName: String
            public let blocks: [Block]
        }
        public let functions: [String: Function]
    }
    case neuralNetwork(Int), program(Program), pipeline(Int), unsupported
}

/// A plan of two convolutions on the Neural Engine, each with three eighths of the cost.
public final class MLComputePlan {
    public struct DeviceUsage {
        public let supported: [MLComputeDevice]
        public let preferred: MLComputeDevice
    }
    public struct Cost { public let weight: Double }

    public let modelStructure: MLModelStructure

    init() {
        let names = ["ios17.conv", "const", "ios17.conv"]
        let operations = names.map { MLModelStructure.Program.Operation(operatorName: $0, blocks: []) }
        let block = MLModelStructure.Program.Block(operations: operations)
        modelStructure = .program(.init(functions: ["main": .init(block: block)]))
    }

    public static func load(
        contentsOf url: URL, configuration: MLModelConfiguration
    ) async throws -> MLComputePlan { MLComputePlan() }

    public func deviceUsage(for operation: MLModelStructure.Program.Operation) -> DeviceUsage? {
        DeviceUsage(supported: [.cpu(0), .neuralEngine(16)], preferred: .neuralEngine(16))
    }

    public func estimatedCost(of operation: MLModelStructure.Program.Operation) -> Cost? { Cost(weight: 0.375) }
}
