using UnityEngine;
using UnityEngine.Rendering;

namespace WorldBridge
{
    /// <summary>
    /// Send what a camera sees of the scene, color and depth, to a world that takes observations: the
    /// world joins it to its memory and draws what the scene leaves open. It belongs on an object with a
    /// camera of its own, which it moves to the viewer and enables for the frames that it sends; that
    /// camera's culling mask says what is sent, and must leave out the layer of a World Backdrop. In URP,
    /// switch on Depth Texture in that camera.
    /// </summary>
    [AddComponentMenu("worldbridge/World Guide")]
    [RequireComponent(typeof(Camera))]
    public sealed class WorldGuide : MonoBehaviour
    {
        private const float Reach = 130; // metres: what is farther counts as the sky
        private const double DepthScale = 0.002; // metres per step of the depth
        private static readonly int ReachId = Shader.PropertyToID("_Reach");
        private static readonly int NearFarId = Shader.PropertyToID("_NearFar");

        [SerializeField]
        [Tooltip("The world that is given the scene.")]
        private WorldStream stream;

        [SerializeField]
        [Tooltip("The camera whose view is sent. Its World Stream should send the same.")]
        private Camera viewer;

        [SerializeField]
        [Tooltip("The shader worldbridge/World Guide.")]
        private Shader shader;

        [SerializeField]
        [Tooltip("Let the world forget what it drew before, at the first view of each session.")]
        private bool fresh = true;

        [SerializeField]
        [Tooltip("Seconds between two views, sent while the camera moves; 0: only SendView sends.")]
        private float interval = 0.5f;

        [SerializeField]
        [Tooltip("Metres that the camera moves, or radians that it turns, before its next view is sent.")]
        private float step = 0.1f;

        private readonly Observation observation = new Observation { DepthScale = DepthScale };
        private Camera eye;
        private Material material;
        private RenderTexture color;
        private RenderTexture packed;
        private bool rendering; // the camera is enabled for one frame
        private bool reading; // the image is on its way from the GPU
        private bool begun; // this session has a view
        private float last = float.NegativeInfinity;
        private Vector3 lastPosition;
        private Quaternion lastRotation;

        /// <summary>Get or set the world that is given the scene.</summary>
        public WorldStream Stream
        {
            get => stream;
            set => stream = value;
        }

        /// <summary>Get or set the camera whose view is sent.</summary>
        public Camera Viewer
        {
            get => viewer;
            set => viewer = value;
        }

        /// <summary>Get how many views were sent.</summary>
        public int Sent { get; private set; }

        /// <summary>Get whether the world takes views of the scene.</summary>
        public bool IsTaken => stream != null && stream.Client != null && stream.Client.TakesObservations;

        /// <summary>
        /// Render the scene from the viewer and send it. Nothing is sent while another view is on its
        /// way, or to a world that takes none.
        /// </summary>
        public void SendView()
        {
            if (rendering || reading || !IsTaken || viewer == null || material == null) return;
            rendering = true;
            last = Time.unscaledTime;
            lastPosition = viewer.transform.position;
            lastRotation = viewer.transform.rotation;
            Resize(stream.Client.World);
            eye.transform.position = lastPosition;
            eye.transform.rotation = lastRotation;
            eye.fieldOfView = viewer.fieldOfView;
            eye.nearClipPlane = viewer.nearClipPlane;
            eye.farClipPlane = viewer.farClipPlane;
            eye.aspect = (float)observation.Width / observation.Height;
            eye.depthTextureMode = DepthTextureMode.Depth;
            eye.targetTexture = color;
            observation.Camera = WorldStream.PoseOf(eye);
            eye.enabled = true; // any pipeline renders it with this frame
        }

        private void Awake()
        {
            eye = GetComponent<Camera>();
            eye.enabled = false;
            if (shader == null) shader = Shader.Find("worldbridge/World Guide");
            if (shader != null) material = new Material(shader);
        }

        private void OnEnable()
        {
            Camera.onPostRender += OnBuiltInRendered;
            RenderPipelineManager.endCameraRendering += OnPipelineRendered;
        }

        private void OnDisable()
        {
            Camera.onPostRender -= OnBuiltInRendered;
            RenderPipelineManager.endCameraRendering -= OnPipelineRendered;
            rendering = false;
            eye.enabled = false;
        }

        private void OnDestroy()
        {
            if (color != null) Destroy(color);
            if (packed != null) Destroy(packed);
            if (material != null) Destroy(material);
        }

        private void LateUpdate()
        {
            SessionState state = stream == null ? SessionState.Idle : stream.State;
            if (state != SessionState.Playing)
            {
                begun = begun && state == SessionState.Reconnecting;
                return;
            }
            if (interval > 0 && Time.unscaledTime - last >= interval && (!begun || Moved())) SendView();
        }

        private bool Moved() =>
            viewer != null
            && (
                Vector3.Distance(viewer.transform.position, lastPosition) > step
                || Quaternion.Angle(viewer.transform.rotation, lastRotation) > step * Mathf.Rad2Deg
            );

        // The view has the shape of the world's frames and at most the protocol's pixels.
        private void Resize(WorldSpec world)
        {
            double pixels = (double)world.Width * world.Height;
            double scale = System.Math.Min(1, System.Math.Sqrt(Protocol.MaxObservedPixels / pixels));
            int width = (int)(world.Width * scale), height = (int)(world.Height * scale);
            if (color != null && observation.Width == width && observation.Height == height) return;
            if (color != null) Destroy(color);
            if (packed != null) Destroy(packed);
            color = new RenderTexture(width, height, 24);
            packed = new RenderTexture(
                width,
                2 * height,
                0,
                RenderTextureFormat.ARGB32,
                RenderTextureReadWrite.Linear
            );
            observation.Width = width;
            observation.Height = height;
            observation.Rgb = new byte[3 * width * height];
            observation.Depth = new byte[2 * width * height];
        }

        private void OnBuiltInRendered(Camera camera) => Rendered(camera);

        private void OnPipelineRendered(ScriptableRenderContext context, Camera camera) => Rendered(camera);

        // The depth texture is this camera's until the next one renders.
        private void Rendered(Camera camera)
        {
            if (camera != eye || !rendering) return;
            rendering = false;
            eye.enabled = false;
            reading = true;
            material.SetFloat(ReachId, Reach);
            material.SetVector(NearFarId, new Vector4(eye.nearClipPlane, eye.farClipPlane, 0, 0));
            Graphics.Blit(color, packed, material);
            AsyncGPUReadback.Request(packed, 0, TextureFormat.RGBA32, OnRead);
        }

        private void OnRead(AsyncGPUReadbackRequest request)
        {
            reading = false;
            if (request.hasError || !IsTaken || stream.State != SessionState.Playing) return;
            Unity.Collections.NativeArray<byte> data = request.GetData<byte>();
            int width = observation.Width, height = observation.Height;
            if (data.Length != 8 * width * height) return;
            int to = 0;
            for (int y = height - 1; y >= 0; y--) // the lowest row comes first
            {
                int from = 4 * y * width;
                int depthFrom = from + 4 * width * height;
                for (int x = 0; x < width; x++, to++, from += 4, depthFrom += 4)
                {
                    observation.Rgb[3 * to] = data[from];
                    observation.Rgb[3 * to + 1] = data[from + 1];
                    observation.Rgb[3 * to + 2] = data[from + 2];
                    observation.Depth[2 * to] = data[depthFrom];
                    observation.Depth[2 * to + 1] = data[depthFrom + 1];
                }
            }
            observation.Fresh = fresh && !begun;
            stream.Client.Observe(observation);
            begun = true;
            Sent++;
        }
    }
}
