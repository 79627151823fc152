// Stands in for the part of Core ML that the generated Swift uses; a model gives zeros.
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
    fileprivate var values: [Float]

    public init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws {
        values = Array(repeating: 0, count: shape.reduce(1) { $0 * $1.intValue })
    }

    public func withUnsafeMutableBytes<R>(_ body: (UnsafeMutableRawBufferPointer, [Int]) throws -> R) rethrows -> R {
        try values.withUnsafeMutableBytes { try body($0, []) }
    }
}

public protocol MLShapedArrayScalar {}
extension Float: MLShapedArrayScalar {}

public struct MLShapedArray<Scalar: MLShapedArrayScalar> {
    public let scalars: [Scalar]
}

extension MLShapedArray where Scalar == Float {
    public init(converting array: MLMultiArray) { scalars = array.values }
}

@available(macOS 15.0, iOS 18.0, *)
public class MLState {}

public class MLModel {
    public init(contentsOf url: URL, configuration: MLModelConfiguration) throws {}

    public class func compileModel(at url: URL) throws -> URL { url }

    public func prediction(from input: any MLFeatureProvider) throws -> any MLFeatureProvider { input }

    @available(macOS 15.0, iOS 18.0, *)
    public func prediction(from input: any MLFeatureProvider, using state: MLState) throws -> any MLFeatureProvider {
        input
    }

    @available(macOS 15.0, iOS 18.0, *)
    public func makeState() -> MLState { MLState() }
}
