// Stands in for the part of Metal that the generated Swift uses.
public protocol MTLDevice {}
public protocol MTLTexture {}
public enum MTLPixelFormat { case bgra8Unorm }
