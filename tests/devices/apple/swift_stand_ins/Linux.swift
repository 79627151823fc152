// What Foundation has on Apple's systems and lacks on Linux.
import Foundation

func autoreleasepool<R>(invoking body: () throws -> R) rethrows -> R { try body() }

extension ProcessInfo {
    public enum ThermalState: Int { case nominal, fair, serious, critical }
    public var thermalState: ThermalState { .nominal }
    public var isLowPowerModeEnabled: Bool { false }
}
