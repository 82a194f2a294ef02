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
        public GameObject gameObject => null;

        public T GetComponent<T>() => default;
    }

    public class Behaviour : Component
    {
        public bool enabled { get; set; }
    }

    public class MonoBehaviour : Behaviour
    {
        public Coroutine StartCoroutine(System.Collections.IEnumerator routine) => null;

        public void StopAllCoroutines() { }
    }

    public sealed class Coroutine { }

    public enum PrimitiveType
    {
        Sphere = 0,
        Cube = 3,
        Quad = 5,
    }

    public sealed class GameObject : Object
    {
        public GameObject(string name) { }

        public Transform transform => null;
        public int layer { get; set; }

        public static GameObject CreatePrimitive(PrimitiveType type) => null;

        public T AddComponent<T>()
            where T : Component => default;

        public T GetComponent<T>() => default;

        public void SetActive(bool value) { }
    }

    public static class GUILayout
    {
        public static bool Button(string text) => false;
    }

    public static class Time
    {
        public static float time => 0;
        public static float unscaledTime => 0;
        public static float realtimeSinceStartup => 0;
    }

    public static class Graphics
    {
        public static void Blit(Texture source, RenderTexture dest, Material mat) { }
    }

    public enum DepthTextureMode
    {
        Depth = 1,
    }

    public class Transform : Component
    {
        public Vector3 position { get; set; }
        public Quaternion rotation { get; set; }
        public Vector3 localScale { get; set; }
    }

    public class Camera : Behaviour
    {
        public delegate void CameraCallback(Camera cam);

        public static CameraCallback onPostRender;

        public static Camera main => null;
        public float fieldOfView { get; set; }
        public float nearClipPlane { get; set; }
        public float farClipPlane { get; set; }
        public float aspect { get; set; }
        public int cullingMask { get; set; }
        public DepthTextureMode depthTextureMode { get; set; }
        public RenderTexture targetTexture { get; set; }

        public void Render() { }
    }

    public class Shader : Object
    {
        public static int PropertyToID(string name) => 0;

        public static Shader Find(string name) => null;
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
        public const float Rad2Deg = 57.29578f;

        public static float Sin(float f) => (float)Math.Sin(f);

        public static float Cos(float f) => (float)Math.Cos(f);

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
        public Material(Shader shader) { }

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

        public static float Distance(Vector3 a, Vector3 b) => 0;

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

        public static float Angle(Quaternion a, Quaternion b) => 0;

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
        RGBA32 = 4,
        BGRA32 = 14,
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

    public enum RenderTextureFormat
    {
        ARGB32 = 0,
    }

    public enum RenderTextureReadWrite
    {
        Linear = 1,
    }

    public class RenderTexture : Texture
    {
        public RenderTexture(int width, int height, int depth) { }

        public RenderTexture(
            int width,
            int height,
            int depth,
            RenderTextureFormat format,
            RenderTextureReadWrite readWrite
        ) { }

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

    [AttributeUsage(AttributeTargets.Field)]
    public sealed class RangeAttribute : Attribute
    {
        public RangeAttribute(float min, float max) { }
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

    public delegate void UnityAction<T>(T arg);

    public delegate void UnityAction<T0, T1>(T0 arg0, T1 arg1);

    public class UnityEvent<T>
    {
        public void AddListener(UnityAction<T> call) { }

        public void Invoke(T arg) { }
    }

    public class UnityEvent<T0, T1>
    {
        public void AddListener(UnityAction<T0, T1> call) { }

        public void Invoke(T0 arg0, T1 arg1) { }
    }

    public class UnityEvent
    {
        public void AddListener(UnityAction call) { }

        public void RemoveListener(UnityAction call) { }

        public void Invoke() { }
    }
}

namespace Unity.Collections
{
    public struct NativeArray<T>
        where T : struct
    {
        public int Length => 0;
        public T this[int index] => default;
    }
}

namespace UnityEngine.Rendering
{
    public struct ScriptableRenderContext { }

    public static class RenderPipelineManager
    {
        public static event Action<ScriptableRenderContext, Camera> endCameraRendering;
    }

    public struct AsyncGPUReadbackRequest
    {
        public bool hasError => false;

        public Unity.Collections.NativeArray<T> GetData<T>(int layer = 0)
            where T : struct => default;
    }

    public static class AsyncGPUReadback
    {
        public static AsyncGPUReadbackRequest Request(
            Texture src,
            int mipIndex,
            TextureFormat dstFormat,
            Action<AsyncGPUReadbackRequest> callback
        ) => default;
    }
}

namespace Unity.WebRTC
{
    using UnityEngine;

    public enum RTCIceGatheringState
    {
        New,
        Gathering,
        Complete,
    }

    public enum RTCSdpType
    {
        Offer,
        Pranswer,
        Answer,
    }

    public enum TrackKind
    {
        Audio,
        Video,
    }

    public enum RTCRtpTransceiverDirection
    {
        SendRecv = 0,
        SendOnly = 1,
        RecvOnly = 2,
    }

    public class RTCRtpTransceiverInit
    {
        public RTCRtpTransceiverDirection? direction;
    }

    public struct RTCIceServer
    {
        public string credential;
        public string username;
        public string[] urls;
    }

    public struct RTCConfiguration
    {
        public RTCIceServer[] iceServers;
    }

    public struct RTCSessionDescription
    {
        public RTCSdpType type;
        public string sdp;
    }

    public struct RTCError
    {
        public string message;
    }

    public class AsyncOperationBase
    {
        public bool IsError => false;
        public RTCError Error => default;
    }

    public class RTCSessionDescriptionAsyncOperation : AsyncOperationBase
    {
        public RTCSessionDescription Desc => default;
    }

    public class RTCSetSessionDescriptionAsyncOperation : AsyncOperationBase { }

    public class MediaStreamTrack { }

    public delegate void OnVideoReceived(Texture renderer);

    public class VideoStreamTrack : MediaStreamTrack
    {
        public event OnVideoReceived OnVideoReceived;
    }

    public class RTCTrackEvent
    {
        public MediaStreamTrack Track => null;
    }

    public delegate void DelegateOnTrack(RTCTrackEvent e);

    public sealed class RTCPeerConnection : IDisposable
    {
        public RTCPeerConnection(ref RTCConfiguration configuration) { }

        public DelegateOnTrack OnTrack { get; set; }
        public RTCIceGatheringState GatheringState => default;
        public RTCSessionDescription LocalDescription => default;

        public void AddTransceiver(TrackKind kind, RTCRtpTransceiverInit init = null) { }

        public RTCSessionDescriptionAsyncOperation CreateOffer() => null;

        public RTCSetSessionDescriptionAsyncOperation SetLocalDescription(ref RTCSessionDescription desc) =>
            null;

        public RTCSetSessionDescriptionAsyncOperation SetRemoteDescription(ref RTCSessionDescription desc) =>
            null;

        public void Close() { }

        public void Dispose() { }
    }

    public static class WebRTC
    {
        public static System.Collections.IEnumerator Update() => null;
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

        public static void BeginHorizontal() { }

        public static void EndHorizontal() { }

        public static void LabelField(string label, string label2) { }

        public static void HelpBox(string message, MessageType type) { }
    }
}
