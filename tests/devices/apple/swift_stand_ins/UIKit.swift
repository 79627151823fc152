// Stands in for the part of UIKit that the runner app uses.
import Foundation

@MainActor public class UIApplication {
    public static var shared: UIApplication { UIApplication() }
    public var isIdleTimerDisabled = false
}

@MainActor public class UIDevice {
    public enum BatteryState: Int { case unknown, unplugged, charging, full }
    public static var current: UIDevice { UIDevice() }
    public var isBatteryMonitoringEnabled = false
    public var batteryState: BatteryState { .unknown }
}
