// Declarations of the parts of Unity that the package uses, for compile checks without Unity. They
// do nothing. Source: Unity's scripting reference.

#pragma warning disable CS0067, CS0649

using System;

namespace UnityEngine
{
    public class Object
    {
        public string name { get; set; }

        public static void Destroy(Object target) { }
    }

    public class Component : Object
    {
        public Transform transform => null;

        public T GetComponent<T>() => default;
    }

    public class Behaviour : Component
    {
        public bool enabled { get; set; }
    }

    public class MonoBehaviour : Behaviour { }

    public class Transform : Component
    {
        public Vector3 position { get; set; }
        public Quaternion rotation { get; set; }
    }

    public class Camera : Behaviour
    {
        public float fieldOfView { get; set; }
        public RenderTexture targetTexture { get; set; }

        public void Render() { }
    }

    public class Shader : Object
    {
        public static int PropertyToID(string name) => 0;
    }

    public struct Bounds
    {
        public Bounds(Vector3 center, Vector3 size) { }
    }

    public struct Vector4
    {
        public Vector4(float x, float y, float z, float w) { }
    }

    public struct Matrix4x4
    {
        public Matrix4x4 inverse => this;

        public static Matrix4x4 TRS(Vector3 pos, Quaternion q, Vector3 s) => default;
    }

    public static class Mathf
    {
        public const float Deg2Rad = 0.0174532924f;

        public static float Tan(float f) => (float)Math.Tan(f);
    }

    public class MeshRenderer : Renderer { }

    public class Renderer : Component
    {
        public bool enabled { get; set; }
        public Bounds bounds { get; set; }
        public Material material { get; set; }
    }

    public class Material : Object
    {
        public Texture mainTexture { get; set; }

        public void SetTexture(int nameID, Texture value) { }

        public void SetFloat(int nameID, float value) { }

        public void SetVector(int nameID, Vector4 value) { }

        public void SetMatrix(int nameID, Matrix4x4 value) { }
    }

    public struct Vector2
    {
        public float x, y;
    }

    public struct Vector2Int
    {
        public Vector2Int(int x, int y)
        {
            this.x = x;
            this.y = y;
        }

        public int x { get; set; }
        public int y { get; set; }
    }

    public struct Vector3
    {
        public float x, y, z;

        public static Vector3 zero => default;
        public static Vector3 one => new Vector3(1, 1, 1);

        public static Vector3 operator *(Vector3 a, float d) => new Vector3(d * a.x, d * a.y, d * a.z);

        public Vector3(float x, float y, float z)
        {
            this.x = x;
            this.y = y;
            this.z = z;
        }
    }

    public struct Quaternion
    {
        public float x, y, z, w;

        public Quaternion(float x, float y, float z, float w)
        {
            this.x = x;
            this.y = y;
            this.z = z;
            this.w = w;
        }
    }

    public struct Rect
    {
        public Rect(float x, float y, float width, float height) { }
    }

    public enum TextureFormat
    {
        RGB24 = 3,
        R16 = 9,
    }

    public enum TextureWrapMode
    {
        Clamp = 1,
    }

    public enum FilterMode
    {
        Point = 0,
    }

    public class Texture : Object
    {
        public virtual int width { get; set; }
        public virtual int height { get; set; }
        public FilterMode filterMode { get; set; }
        public TextureWrapMode wrapMode { get; set; }
    }

    public class Texture2D : Texture
    {
        public Texture2D(int width, int height, TextureFormat format, bool mipChain) { }

        public Texture2D(int width, int height, TextureFormat format, bool mipChain, bool linear) { }

        public void LoadRawTextureData(byte[] data) { }

        public void Apply(bool updateMipmaps) { }

        public void ReadPixels(Rect source, int x, int y) { }

        public void Apply() { }
    }

    public class RenderTexture : Texture
    {
        public static RenderTexture active { get; set; }

        public static RenderTexture GetTemporary(int width, int height, int depthBuffer) => null;

        public static void ReleaseTemporary(RenderTexture target) { }
    }

    public static class ImageConversion
    {
#if UNITY_6000_0_OR_NEWER
        public static bool LoadImage(
            this Texture2D tex,
            ReadOnlySpan<byte> data,
            bool markNonReadable
        ) => true;
#endif

        public static bool LoadImage(this Texture2D tex, byte[] data, bool markNonReadable) => true;

        public static byte[] EncodeToPNG(this Texture2D tex) => null;
    }

    public sealed class WaitForEndOfFrame { }

    public static class Application
    {
        public static bool isPlaying => false;
    }

    public static class Debug
    {
        public static void LogWarning(object message, Object context) { }
    }

    [AttributeUsage(AttributeTargets.Field)]
    public sealed class SerializeField : Attribute { }

    [AttributeUsage(AttributeTargets.Field)]
    public sealed class TooltipAttribute : Attribute
    {
        public TooltipAttribute(string tooltip) { }
    }

    public sealed class AddComponentMenu : Attribute
    {
        public AddComponentMenu(string menuName) { }
    }

    public sealed class DisallowMultipleComponent : Attribute { }

    [AttributeUsage(AttributeTargets.Class, AllowMultiple = true)]
    public sealed class RequireComponent : Attribute
    {
        public RequireComponent(Type first) { }

        public RequireComponent(Type first, Type second) { }
    }
}

namespace UnityEngine.Events
{
    public delegate void UnityAction();

    public class UnityEvent
    {
        public void AddListener(UnityAction call) { }

        public void RemoveListener(UnityAction call) { }

        public void Invoke() { }
    }
}

namespace UnityEngine.UI
{
    public class RawImage : Behaviour
    {
        public Texture texture { get; set; }
    }
}

namespace UnityEngine.InputSystem
{
    public enum Key
    {
        Space,
        A,
        D,
        S,
        W,
        LeftArrow,
        RightArrow,
        UpArrow,
        DownArrow,
    }

    public class ButtonControl
    {
        public bool isPressed => false;
    }

    public class Vector2Control
    {
        public Vector2 ReadValue() => default;
    }

    public class DpadControl
    {
        public ButtonControl up, down, left, right;
    }

    public class Gamepad
    {
        public static Gamepad current => null;
        public Vector2Control leftStick, rightStick;
        public DpadControl dpad;
        public ButtonControl buttonSouth, buttonEast, buttonWest, buttonNorth;
        public ButtonControl leftShoulder, rightShoulder, leftTrigger, rightTrigger;
        public ButtonControl selectButton, startButton, leftStickButton, rightStickButton;
    }

    public class Keyboard
    {
        public static Keyboard current => null;
        public ButtonControl this[Key key] => null;
    }

    public class Mouse
    {
        public static Mouse current => null;
        public ButtonControl rightButton;
        public Vector2Control delta;
    }
}

namespace UnityEditor
{
    using UnityEngine;

    public enum MessageType
    {
        Error = 3,
    }

    public sealed class CustomEditor : Attribute
    {
        public CustomEditor(Type inspectedType) { }
    }

    public class Editor : Object
    {
        public Object target { get; set; }

        public virtual bool RequiresConstantRepaint() => false;

        public virtual void OnInspectorGUI() { }

        public bool DrawDefaultInspector() => false;
    }

    public static class EditorGUILayout
    {
        public static void Space() { }

        public static void LabelField(string label, string label2) { }

        public static void HelpBox(string message, MessageType type) { }
    }
}
