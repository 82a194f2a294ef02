using UnityEngine;

namespace WorldBridge
{
    /// <summary>
    /// Fill a camera's view with a stream, so that the scene's own objects stand in the world and are
    /// hidden by its walls. Put it on an object with a MeshRenderer and a quad (GameObject > 3D Object
    /// > Quad), whose material has the shader worldbridge/World Backdrop.
    /// </summary>
    [AddComponentMenu("worldbridge/World Backdrop")]
    [RequireComponent(typeof(MeshRenderer))]
    public sealed class WorldBackdrop : MonoBehaviour
    {
        private static readonly int FrameId = Shader.PropertyToID("_MainTex");
        private static readonly int DepthId = Shader.PropertyToID("_DepthTex");
        private static readonly int DepthScaleId = Shader.PropertyToID("_DepthScale");
        private static readonly int TangentsId = Shader.PropertyToID("_FrameTangents");
        private static readonly int ToFrameId = Shader.PropertyToID("_ToFrame");
        private static readonly int MovedId = Shader.PropertyToID("_Moved");
        private static readonly int RecedeId = Shader.PropertyToID("_Recede");

        [SerializeField]
        [Tooltip("Where the frames come from. It should ask for depth.")]
        private WorldStream stream;

        [SerializeField]
        [Tooltip("The camera whose view is filled.")]
        private Camera viewer;

        [SerializeField]
        [Tooltip("Move the camera to where each frame is seen from: for worlds that do not follow it.")]
        private bool driveCamera;

        [SerializeField]
        [Tooltip("Share of its distance by which a surface stands farther: 0.1 where a World Guide sends the scene.")]
        [Range(0, 0.5f)]
        private float recede;

        private MeshRenderer view;

        /// <summary>Get or set where the frames come from.</summary>
        public WorldStream Stream
        {
            get => stream;
            set => stream = value;
        }

        /// <summary>Get or set the camera whose view is filled.</summary>
        public Camera Viewer
        {
            get => viewer;
            set => viewer = value;
        }

        /// <summary>Get or set the share of its distance by which a surface stands farther.</summary>
        public float Recede
        {
            get => recede;
            set => recede = value;
        }

        private void Awake()
        {
            view = GetComponent<MeshRenderer>();
            // The shader places the quad: it must not be culled for where the object stands.
            view.bounds = new Bounds(Vector3.zero, Vector3.one * 1e6f);
        }

        private void LateUpdate()
        {
            view.enabled = stream != null && viewer != null && stream.Texture != null;
            if (!view.enabled) return;
            stream.GetCameraPose(out Vector3 position, out Quaternion rotation);
            float fov = (float)stream.Header.Camera.FovY;
            if (driveCamera)
            {
                viewer.transform.position = position;
                viewer.transform.rotation = rotation;
                viewer.fieldOfView = fov;
            }
            float tangent = Mathf.Tan(0.5f * fov * Mathf.Deg2Rad);
            float aspect = (float)stream.Texture.width / stream.Texture.height;
            Material material = view.material;
            material.SetTexture(FrameId, stream.Texture);
            material.SetTexture(DepthId, stream.DepthTexture);
            // R16 is read as 0 to 1
            material.SetFloat(DepthScaleId, 65535f * stream.DepthScale);
            material.SetVector(TangentsId, new Vector4(tangent * aspect, tangent, 0, 0));
            Matrix4x4 frame = Matrix4x4.TRS(position, rotation, Vector3.one);
            material.SetMatrix(ToFrameId, frame.inverse);
            material.SetFloat(RecedeId, recede);
            bool moved = Vector3.Distance(position, viewer.transform.position) > 1e-3f;
            material.SetFloat(MovedId, moved ? 1 : 0);
        }
    }
}
